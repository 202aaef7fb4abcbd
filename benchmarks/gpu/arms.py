"""Our arms: the product as users get it, and ablations of it by its own settings, each in the same rows and steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check
from benchmarks.gpu.meters import Steps, allocated_bytes, cap_memory, patched, reserved_memory, reset_peak
from benchmarks.gpu.our_training import device_of, load_base, method, resolved_spec, train
from benchmarks.gpu.profiling import Profile
from benchmarks.gpu.rows import random_rows
from benchmarks.gpu.settings import MIB

SECONDS = 14.0
"""After so long an arm begins no further step."""

EPOCH_STEPS = 6
"""Steps' worth of rows that the arms have."""


@contextmanager
def _without_determinism() -> Iterator[None]:
    """torch chooses kernels by speed alone."""
    from finetune_trainer.hardware import device

    with patched(device, "make_deterministic", lambda on: None):
        yield


@contextmanager
def _with_a_mask() -> Iterator[None]:
    """A mask keeps packed rows apart."""
    from finetune_trainer.training import packing

    with patched(packing, "by_rows_refused", lambda model, rows: "is asked to use a mask"):
        yield


@dataclass(frozen=True)
class Arm:
    """One of our arms.

    Attributes:
        title: its name in the report.
        method: `spec.method`.
        training: what it changes in `spec.training`.
        changed: what it changes otherwise, for as long as it runs.
        profiled: whether its kernels are timed; its speed then means little.
    """

    title: str
    method: Mapping[str, Any] = field(default_factory=method)
    training: Mapping[str, Any] = field(default_factory=dict)
    changed: Callable[[], Any] | None = None
    profiled: bool = False


ARMS = {
    "ours": Arm("ours, QLoRA"),
    "dora": Arm("ours, QDoRA", method("DoRA")),
    "dora-peft": Arm("PEFT's QDoRA in our trainer", method("DoRA", keptNorms=False)),
    "ours-unpacked": Arm("ours, packing off", training={"packing": False}),
    "ours-masked": Arm("ours, packed rows under a mask", changed=_with_a_mask),
    "ours-torch-kernels": Arm("ours, torch's kernels instead of Liger's", training={"kernels": "torch"}),
    "ours-checkpointing": Arm("ours, gradient checkpointing of every layer", training={
        "gradientCheckpointing": "enabled"}),
    "ours-no-checkpointing": Arm("ours, no gradient checkpointing", training={"gradientCheckpointing": "disabled"}),
    "ours-1-row": Arm("ours, one row a pass", training={"microBatchSize": 1}),
    "ours-not-deterministic": Arm("ours, without deterministic algorithms", changed=_without_determinism),
    "ours-profiled": Arm("ours, with a profile", profiled=True),
    "dora-profiled": Arm("ours, QDoRA, with a profile", method("DoRA"), profiled=True),
}
MAIN = ("ours",)
DORA = ("dora", "dora-peft")
ABLATIONS = tuple(name for name in ARMS if name not in (*MAIN, *DORA))
ON_HOPPER = ("ours",)


def measure(check: Check, name: str) -> dict[str, Any]:
    """Train an arm for some steps in this process, and say what it took."""
    import torch

    arm, settings = ARMS[name], check.settings
    torch.use_deterministic_algorithms(False)  # The trainer asks for them; an arm before may have, too.
    base = load_base(settings.large_nf4, arm.method["quantization"], device_of(settings))
    spec = resolved_spec(settings, arm.method, {"maxSteps": settings.steps, **arm.training}, settings.large_nf4)
    steps, rows = Steps(SECONDS), random_rows(settings, settings.batch * EPOCH_STEPS)
    reset_peak()
    loaded = allocated_bytes()
    with tempfile.TemporaryDirectory(dir=settings.work) as scratch, ExitStack() as stack:
        if arm.changed:
            stack.enter_context(arm.changed())
        profile = stack.enter_context(Profile(steps, settings.dry)) if arm.profiled else None
        trained = train(spec, base, rows, steps, Path(scratch))
    return {
        "arm": name, "title": arm.title, "loadedMiB": round(loaded / MIB), **steps.summary(),
        **trained.micro_batches.summary(), "microBatch": trained.trainer.args.per_device_train_batch_size,
        "checkpointing": trained.checkpointing, "optimizer": type(trained.optimizer).__name__,
        "kernelsUsed": trained.kernels, **reserved_memory(),
        **({"kernels": profile.kernels, "table": profile.table} if profile else {}),
    }


def measure_all(check: Check, names: Sequence[str]) -> None:
    """Measure arms one after another, with an L4's memory."""
    cap_memory(check.settings)
    for name in names:
        with check.attempt(name):
            check.say(**measure(check, name))


def run_main(check: Check) -> None:
    """Our QLoRA, then the peers."""
    from benchmarks.gpu.peers import measure_peers

    measure_all(check, MAIN)
    measure_peers(check)


def run_dora(check: Check) -> None:
    """Our QDoRA and PEFT's."""
    measure_all(check, DORA)


def run_ablations(check: Check) -> None:
    """One thing changed in our QLoRA at a time."""
    measure_all(check, ABLATIONS)


def run_cudnn(check: Check) -> None:
    """Our QLoRA once more, with cuDNN's attention first, as torch chooses on an H100 by itself."""
    measure_all(check, ON_HOPPER)
