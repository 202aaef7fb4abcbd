"""Going on from a checkpoint: what every loop tells and takes over before it reads its own state."""

from __future__ import annotations

from pathlib import Path

from finetune_api.messages import CheckpointManifest
from finetune_api.messages.layout import METRICS

from finetune_trainer.trained_model import TRAINED
from finetune_trainer.training.training_run import TrainingRun

OPTIMIZER = "optimizer.pt"
"""The optimizer's state in a checkpoint, as transformers calls it."""


def newest(run: TrainingRun, folder: Path, divided: bool) -> CheckpointManifest | None:
    """Fetch the newest checkpoint that fits the run into `folder`; None if there is none.

    Args:
        run: the run that may go on.
        folder: where its files go.
        divided: whether its weights and optimizer state are needed in the first process alone, from which the others
            get their parts; then a collective. The disk of a node would not hold a whole model for each of its GPUs.
    """
    if not divided:
        return run.checkpoints.newest(run.identity, folder)
    if run.world.is_main:
        found = run.checkpoints.newest(run.identity, folder)
        run.world.all_reduce_max(found.step if found else 0)
        return found
    (step,) = run.world.all_reduce_max(0)
    return run.checkpoints.newest(run.identity, folder, step, (TRAINED, OPTIMIZER)) if step else None


def take_up(run: TrainingRun, found: CheckpointManifest, folder: Path, steps: int) -> int:
    """Account for the attempts before, and give the step that the checkpoint in `folder` stands after.

    Args:
        run: the run that goes on.
        found: the checkpoint's manifest.
        folder: its files.
        steps: steps of the whole run.
    """
    run.state.note(f"resuming from step {found.step} of {steps}")
    run.state.resumed_from_step = run.state.checkpoint_step = found.step
    run.state.seconds_before = found.trained_seconds
    run.limits.account_for(found.trained_seconds)
    run.metrics.resume(folder / METRICS)
    return found.step
