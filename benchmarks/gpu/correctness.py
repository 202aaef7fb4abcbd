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


def run(check: Check) -> None:
    """Check everything, on the small model."""
    for quantization in ("none", "nf4"):
        name = f"losses as on the CPU, {quantization}"
        with check.attempt(name):
            check.say(name=name, **_losses(check.settings, quantization))
    name = "packed rows do not see each other"
    with check.attempt(name):
        check.say(name=name, **_rows_apart(check.settings))


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


def _rows_apart(settings: Settings) -> dict[str, Any]:
    """The trainer's own test of packing, on the device's attention kernels."""
    from finetune_trainer.training.packing import rows_mix

    base = load_base(settings.small_bf16, "none", device_of(settings))
    return {"ok": not rows_mix(base.model, random_rows(settings, 8))}
