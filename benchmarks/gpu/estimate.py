"""The memory estimate against what torch's allocator handed out, with an L4's memory."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check
from benchmarks.gpu.meters import Steps, cap_memory, peak_bytes, reserved_memory, reset_peak
from benchmarks.gpu.our_training import Trained, device_of, load_base, method, resolved_spec, train
from benchmarks.gpu.rows import random_rows
from benchmarks.gpu.settings import GIB, MIB


@dataclass(frozen=True)
class Case:
    """A job whose memory is estimated and measured.

    Attributes:
        name: its name in the report.
        method: `spec.method`.
        training: what it changes in `spec.training`.
        short_rows: whether rows are half as long.
    """

    name: str
    method: Mapping[str, Any] = field(default_factory=method)
    training: Mapping[str, Any] = field(default_factory=dict)
    short_rows: bool = False


CHECKPOINTING = {"gradientCheckpointing": "enabled"}
CASES = (
    Case("QLoRA, as chosen"),
    Case("QLoRA, 1 row, checkpointing", training={"microBatchSize": 1, **CHECKPOINTING}),
    Case("QLoRA, 4 rows unpacked, checkpointing", training={"microBatchSize": 4, "packing": False, **CHECKPOINTING}),
    Case("QLoRA, 2 short rows, no checkpointing", short_rows=True, training={
        "microBatchSize": 2, "gradientCheckpointing": "disabled"}),
    Case("QDoRA, as chosen", method("DoRA")),
    Case("LoRA in bf16, 2 rows, checkpointing", method(quantization="none"), {"microBatchSize": 2, **CHECKPOINTING}),
)


def run(check: Check) -> None:
    """Estimate and measure every case."""
    cap_memory(check.settings)
    for case in CASES:
        with check.attempt(case.name):
            check.say(**_measure(check, case))


def _measure(check: Check, case: Case) -> dict[str, Any]:
    settings = check.settings
    rows = random_rows(settings, settings.batch * 2, shorter=2 if case.short_rows else 1)
    quantization = case.method["quantization"]
    folder = settings.large_nf4 if quantization == "nf4" else settings.large_bf16
    base = load_base(folder, quantization, device_of(settings))
    spec = resolved_spec(settings, case.method, {"maxSteps": 1, **case.training}, folder)
    steps = Steps(60)
    reset_peak()
    with tempfile.TemporaryDirectory(dir=settings.work) as scratch:
        trained = train(spec, base, rows, steps, Path(scratch))
    measured = peak_bytes()
    lengths = [len(row) for row in rows]
    return {"name": case.name, "measuredMiB": round(measured / MIB),
            "microBatch": trained.trainer.args.per_device_train_batch_size, "checkpointing": trained.checkpointing,
            **_estimates(spec, base.model.config.to_dict(), trained, lengths, (int(settings.cap_gib * GIB), measured)),
            **trained.micro_batches.summary(), **reserved_memory(), "notes": steps.notes}


def _estimates(spec: Any, config: dict[str, Any], trained: Trained, lengths: list[int], bytes_of: tuple[int, int]
               ) -> dict[str, Any]:
    """The plan before training, and the estimate of the passes that there were, each with its ratio to what was
    measured.

    Args:
        spec: the resolved spec.
        config: the model's configuration.
        trained: what came of the run.
        lengths: tokens of the rows.
        bytes_of: memory of the card, and what was measured.
    """
    from finetune_api.estimate import (
        Accelerators,
        ForwardPass,
        Machine,
        RowLengths,
        choose_plan,
        estimate_memory,
        read_architecture,
    )
    from finetune_api.estimate.memory import CONTEXT

    memory, measured = bytes_of
    architecture, seen = read_architecture(config), trained.micro_batches
    machine = Machine(True, 2).computing(architecture, native=True, kernels=trained.kernels != "torch")
    plan = choose_plan(spec, architecture, Accelerators(machine, memory),
                       RowLengths(max(lengths), statistics.fmean(lengths)))
    forward_pass = ForwardPass(seen.most_tokens, seen.widest, seen.most_answers, seen.packed,
                               alone=seen.passes <= len(lengths) // spec.training.batch_size)
    real = estimate_memory(architecture, spec.method, forward_pass, trained.checkpointing, machine)
    planned, estimated = (one.total - CONTEXT for one in (plan.memory, real))
    return {"planned": [plan.micro_batch_size, plan.checkpointed_layers], "planMiB": round(planned / MIB),
            "estimateMiB": round(estimated / MIB), "planToMeasured": round(planned / measured, 3) if measured else None,
            "estimateToMeasured": round(estimated / measured, 3) if measured else None,
            "terms": {name: round(size / MIB) for name, size in real.terms()}}
