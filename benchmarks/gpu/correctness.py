"""What a GPU computes against what it should: the CPU's losses; rows in one line that do not see each other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.meters import Steps
from benchmarks.gpu.our_training import device_of, load_base, method, resolved_spec, train
from benchmarks.gpu.rows import random_rows
from benchmarks.gpu.settings import Settings

_STEPS = 3
_LOSS_TOLERANCE = 2e-2
"""Of a loss in bfloat16, relative to float32: it is a mean over hundreds of tokens, each rounded to eight bits."""
_ROUNDING = 2e-2
"""Of attention and its gradients in bfloat16, relative to float32."""


def run(check: Check) -> None:
    """Check everything, on the small model."""
    for quantization in ("none", "nf4"):
        name = f"losses as on the CPU, {quantization}"
        with check.attempt(name):
            check.say(name=name, **_losses(check.settings, quantization))
    for name, by_rows in (("packed rows do not see each other under a mask", False),
                          ("packed rows do not see each other in attention by rows", True)):
        with check.attempt(name):
            check.say(name=name, **_rows_apart(check.settings, by_rows))
    for window in (None, 300):
        name = f"attention by rows and its gradients, {f'window {window}' if window else 'no window'}"
        with check.attempt(name):
            check.say(name=name, **_attention(check.settings, window))


def _losses(settings: Settings, quantization: str) -> dict[str, Any]:
    """The losses of the same steps in float32 on the CPU, and as the device computes them."""
    on_cpu, here = (_train(settings, quantization, cpu) for cpu in (True, False))
    apart = [abs(a - b) / a for a, b in zip(on_cpu, here, strict=True)]
    return {"onCpu": on_cpu, "here": here, "furthestApart": round(max(apart), 5), "tolerance": _LOSS_TOLERANCE,
            "ok": len(here) == _STEPS and max(apart) <= _LOSS_TOLERANCE}


def _train(settings: Settings, quantization: str, on_cpu: bool) -> list[float]:
    base = load_base(settings.small_bf16, quantization, device_of(settings, on_cpu))
    spec = resolved_spec(settings, method(quantization=quantization), {"maxSteps": _STEPS, "microBatchSize": 2,
                                                                       "batchSize": 4}, settings.small_bf16)
    steps = Steps(300)
    with tempfile.TemporaryDirectory(dir=settings.work) as scratch:
        train(spec, base, random_rows(settings, 12, shorter=2 if settings.dry else 8), steps, Path(scratch))
    del base
    release_memory()
    return steps.losses


def _rows_apart(settings: Settings, by_rows: bool) -> dict[str, Any]:
    """The trainer's own test of packing, on the device's attention kernels."""
    from finetune_trainer.training.packing import by_rows_refused, rows_mix

    base, rows = load_base(settings.small_bf16, "none", device_of(settings)), random_rows(settings, 8)
    if not by_rows:
        return {"ok": not rows_mix(base.model, rows)}
    reason = by_rows_refused(base.model, rows)
    return {"ok": reason is None, "reason": reason}


def _attention(settings: Settings, window: int | None) -> dict[str, Any]:
    """Attention of rows of 700, 300 and 1,500 tokens with grouped heads, and its gradients, against float32 on the CPU:
    relative errors of the output and of the gradients of query, key and value.
    """
    import torch
    from finetune_trainer.model.attention_by_rows import NAME, row_edges
    from transformers import AttentionInterface

    torch.manual_seed(0)
    device, lengths = device_of(settings), [70, 30, 150] if settings.dry else [700, 300, 1500]
    values = [torch.randn(1, heads, sum(lengths), 128) for heads in (32, 8, 8)]
    gradient = torch.randn(1, sum(lengths), 32, 128)
    attend, results = AttentionInterface()[NAME], []
    for where, dtype in ((torch.device("cpu"), torch.float32), (device.torch_device, device.dtype)):
        # Rounded before, so that only the computation differs.
        inputs = [one.to(device.dtype).to(where, dtype).requires_grad_() for one in values]
        edges = row_edges(lengths)
        output, _ = attend(torch.nn.Module(), *inputs, None, scaling=128**-0.5, sliding_window=window,
                           cu_seq_lens_q=edges["cu_seq_lens_q"].to(where), max_length_q=edges["max_length_q"])
        results.append([one.float().cpu() for one in (output.detach(), *torch.autograd.grad(
            output, inputs, gradient.to(where, dtype)))])
    errors = [float((mine - right).norm() / right.norm()) for right, mine in zip(*results, strict=True)]
    return {"relativeErrors": [round(error, 5) for error in errors], "tolerance": _ROUNDING,
            "ok": max(errors) <= _ROUNDING}
