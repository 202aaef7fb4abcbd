"""What only a GPU shows of a run that goes on: a paged optimizer's checkpoint, and real memory trouble."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.meters import Steps, allocated_bytes, patched, uncap_memory
from benchmarks.gpu.our_training import Trained, device_of, load_base, method, resolved_spec, train
from benchmarks.gpu.rows import random_rows
from benchmarks.gpu.settings import GIB, Settings

_STEPS, _STOP_AFTER = 4, 2
_RESUME_TOLERANCE = 0.02
"""Of what training has moved B by."""

_TROUBLE_GIB = {"disabled": 1.2, "auto": 1.0}
"""What a step may take beside the model, by `gradientCheckpointing`: less than a whole batch needs."""


def run(check: Check) -> None:
    """Resume from a checkpoint, then run out of memory in earnest."""
    name = "resume"
    with check.attempt(name), tempfile.TemporaryDirectory(dir=check.settings.work) as scratch:
        check.say(name=name, **_resume(check.settings, Path(scratch)))
    for toggle in _TROUBLE_GIB:
        name = f"memory trouble, gradientCheckpointing {toggle}"
        with check.attempt(name), tempfile.TemporaryDirectory(dir=check.settings.work) as scratch:
            check.say(name=name, **_memory_trouble(check.settings, toggle, Path(scratch)))
        uncap_memory(check.settings)


def _resume(settings: Settings, scratch: Path) -> dict[str, Any]:
    """A run that is stopped and resumed against one that never was: how far apart their trained weights are."""
    found: dict[str, Any] = {}
    weights: dict[str, dict[str, Any]] = {}
    for which in ("straight", "stopped", "resumed"):
        output = scratch / ("straight" if which == "straight" else "stopped-and-resumed")
        steps, trained = _train_small(settings, which, scratch / which, output)
        found[which] = {"losses": steps.losses, "notes": steps.notes, "finished": trained.result is not None,
                        **_optimizer_state(trained)}
        weights[which] = {name: parameter.detach().float().cpu()
                          for name, parameter in trained.trainer.model.named_parameters() if parameter.requires_grad}
        del trained
        release_memory()
    straight, resumed = weights["straight"], weights["resumed"]
    apart = max(float((straight[name] - resumed[name]).abs().max()) for name in straight)
    moved = max(float(one.abs().max()) for name, one in straight.items() if "lora_B" in name)
    # To the bit on a CPU; a GPU's kernels add in no fixed order.
    return {**found, "furthestApart": apart, "largestB": moved,
            "ok": apart <= (0.0 if settings.dry else _RESUME_TOLERANCE * moved)}


def _train_small(settings: Settings, which: str, scratch: Path, output: Path) -> tuple[Steps, Trained]:
    base = load_base(settings.small_bf16, "nf4", device_of(settings))
    spec = resolved_spec(settings, method(), {"maxSteps": _STEPS, "checkpointEvery": 2, "microBatchSize": 2},
                         settings.small_bf16)
    steps = Steps(300)
    steps.stop_after = _STOP_AFTER if which == "stopped" else None
    return steps, train(spec, base, random_rows(settings, settings.batch * 4, shorter=2), steps, scratch, output)


def _optimizer_state(trained: Trained) -> dict[str, Any]:
    import torch

    state = [value for of_one in trained.optimizer.state.values() for value in of_one.values()
             if isinstance(value, torch.Tensor)]
    return {"optimizer": type(trained.optimizer).__name__, "stateTensors": len(state),
            "pagedTensors": sum(bool(getattr(value, "is_paged", False)) for value in state),
            "stateTypes": sorted({str(value.dtype) for value in state})}


def _memory_trouble(settings: Settings, toggle: str, scratch: Path) -> dict[str, Any]:
    """All rows of a step in one pass, which the estimate would have avoided, in too little memory."""
    import torch
    from finetune_trainer.training import sft

    base = load_base(settings.small_bf16, "nf4", device_of(settings))
    spec = resolved_spec(settings, method(), {"maxSteps": 2, "microBatchSize": settings.batch, "packing": False,
                                              "gradientCheckpointing": toggle}, settings.small_bf16)
    steps = Steps(300)
    if not settings.dry:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((allocated_bytes() + _TROUBLE_GIB[toggle] * GIB) / total)
    first = sft.MicroBatch(settings.batch, 0)
    with patched(sft, "first_micro_batch", lambda run: first):
        trained = train(spec, base, random_rows(settings, settings.batch * 2, shorter=2), steps, scratch)
    return {"losses": steps.losses, "notes": steps.notes, "tries": len(trained.trainers),
            "ok": trained.result is not None and (settings.dry or len(trained.trainers) > 1),
            "microBatch": trained.trainer.args.per_device_train_batch_size,
            "checkpointing": trained.checkpointing, **trained.micro_batches.summary()}
