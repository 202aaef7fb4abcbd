"""What the machine is, and what its parts do: versions, products, copies, and attention kernels."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.gpu.findings import Check
from benchmarks.gpu.meters import wait_for_gpu
from benchmarks.gpu.settings import GIB

_PACKAGES = ("torch", "triton", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "liger-kernel", "unsloth")
_LENGTHS = (1600, 1350, 1250, 1180, 1150, 1100, 1000, 890)
"""Rows of a micro-batch for the attention times: about 1,190 tokens on average."""
_HEAD = 128
_HEADS, _GROUPS = 32, 8


def run(check: Check) -> None:
    """Say what the machine is, and time its parts; without a GPU only the versions."""
    check.say(name="versions", python=sys.version.split()[0], cpus=os.cpu_count(), **_versions())
    if check.settings.dry:
        check.say(name="card", gpu="none: a dry run", totalGiB=0)
        return
    _card(check)
    with check.attempt("compiler"):
        from finetune_trainer.hardware.device import _require_compiler

        _require_compiler()
        check.say(name="compiler", ok=True)
    with check.attempt("speeds"):
        _speeds(check)
    with check.attempt("attention"):
        check.say(name="attention of a layer, ms forward and forward + backward", **_attention_times())


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _card(check: Check) -> None:
    import bitsandbytes
    import torch

    properties = torch.cuda.get_device_properties(0)
    library = getattr(getattr(bitsandbytes.cextension.lib, "_lib", None), "_name", "?")
    check.say(name="card", gpu=properties.name, totalGiB=round(properties.total_memory / GIB, 2),
              capability=f"{properties.major}.{properties.minor}", cudnn=torch.backends.cudnn.version(),
              cuda=torch.version.cuda, library=str(library))


def _timed(function: Callable[[], Any], count: int = 8) -> float:
    """Seconds of one call, after two that warm up."""
    for _ in range(2):
        function()
    wait_for_gpu()
    began = time.perf_counter()
    for _ in range(count):
        function()
    wait_for_gpu()
    return (time.perf_counter() - began) / count


def _speeds(check: Check) -> None:
    """A product, a copy and a dequantization, for comparison with the data sheet and with estimate/speed.py."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    source, target = (torch.empty(GIB, device="cuda", dtype=torch.uint8) for _ in range(2))
    weight = torch.randn(14336, 4096, device="cuda", dtype=torch.bfloat16) * 0.02
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    check.say(name="speeds", bf16TFlops=round(2 * 8192**3 / _timed(lambda: a @ a) / 1e12, 1),
              copyGBs=round(2 * GIB / _timed(lambda: target.copy_(source)) / 1e9),
              dequantizeMs=round(1e3 * _timed(lambda: dequantize_4bit(packed, state)), 3))


def _heads(lines: int, width: int, kinds: tuple[int, int, int]) -> list[Any]:
    import torch

    return [torch.randn(lines, kind, width, _HEAD, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for kind in kinds]


def _both(parts: list[Any], function: Callable[..., Any]) -> tuple[float, float]:
    """Milliseconds of attention forward, and forward and backward."""
    import torch

    grad = torch.randn_like(function(*parts))
    return (round(1e3 * _timed(lambda: function(*parts).detach()), 2),
            round(1e3 * _timed(lambda: torch.autograd.grad(function(*parts), parts, grad)), 2))


def _attention_times() -> dict[str, Any]:
    """A layer's attention over two lines of four rows: with the mask of packed lines, and by rows."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    total = sum(_LENGTHS)
    width = total // 2
    edges = torch.tensor([0, *_LENGTHS], device="cuda").cumsum(0)
    owner = torch.bucketize(torch.arange(total, device="cuda"), edges[1:], right=True).view(2, width)
    causal = torch.ones(width, width, device="cuda", dtype=torch.bool).tril()
    mask = ((owner[:, :, None] == owner[:, None, :]) & causal)[:, None]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    all_heads, groups = (_HEADS, _HEADS, _HEADS), (_HEADS, _GROUPS, _GROUPS)
    result: dict[str, Any] = {}

    def masked(q: Any, k: Any, v: Any) -> Any:
        return sdpa(q, k, v, attn_mask=mask)

    for name, backend in (("efficient", SDPBackend.EFFICIENT_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
        with suppress(RuntimeError), sdpa_kernel(backend):
            result[f"{name}, masked"] = _both(_heads(2, width, all_heads), masked)
            # A new length each time, as every micro-batch has: what a plan for each shape costs.
            result[f"{name}, new lengths"] = [_first_time(sdpa, mask, width - less) for less in (3, 5, 9)]
    with suppress(RuntimeError), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        result["flash, one long row a line"] = _both(
            _heads(2, width, groups), lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True))
    return result


def _first_time(sdpa: Callable[..., Any], mask: Any, width: int) -> float:
    """Milliseconds of the first pass with lines of this width."""
    import torch

    parts = _heads(2, width, (_HEADS, _HEADS, _HEADS))
    wait_for_gpu()
    began = time.perf_counter()
    torch.autograd.grad(sdpa(*parts, attn_mask=mask[:, :, :width, :width]).sum(), parts)
    wait_for_gpu()
    return round(1e3 * (time.perf_counter() - began), 1)
