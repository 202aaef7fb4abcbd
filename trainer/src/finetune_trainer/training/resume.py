"""Going on from a checkpoint: what every loop tells and takes over before it reads its own state."""

from __future__ import annotations

from pathlib import Path

from finetune_api.layout import METRICS
from finetune_api.messages import CheckpointManifest

from finetune_trainer.training.run import TrainingRun


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
