"""Fetches the checkpoint to resume from, and takes over the progress that it records. All training loops share this.

Which checkpoint that is: `newest` in checkpoints.py, by the order in complete_checkpoints.py.
"""

from __future__ import annotations

from pathlib import Path

from finetune_api.messages import CheckpointManifest
from finetune_api.messages.layout import METRICS

from finetune_trainer.trained_model import TRAINED
from finetune_trainer.training.training_run import TrainingRun

OPTIMIZER = "optimizer.pt"
"""The file of the optimizer state in a checkpoint, named as in transformers."""


def fetch_newest(run: TrainingRun, folder: Path, sharded: bool) -> CheckpointManifest | None:
    """Fetch the newest checkpoint that fits the run into `folder`; None if there is none.

    Args:
        run: the training run.
        folder: where its files go.
        sharded: whether the model is sharded. Then this is a collective, and only rank 0 fetches weights and optimizer
            state: the disk of a node cannot hold a whole model for each of its GPUs.
    """
    if not sharded:
        return run.checkpoints.newest(run.identity, folder)
    if run.world.is_main:
        found = run.checkpoints.newest(run.identity, folder)
        run.world.all_reduce_max(found.step if found else 0)
        return found
    (step,) = run.world.all_reduce_max(0)
    return run.checkpoints.newest(run.identity, folder, step, (TRAINED, OPTIMIZER)) if step else None


def resume_progress(run: TrainingRun, found: CheckpointManifest, folder: Path, steps: int) -> int:
    """Take over time, cost and metrics of the earlier attempts.

    Args:
        run: the training run.
        found: the manifest of the checkpoint.
        folder: the files of the checkpoint.
        steps: the steps of the whole run.

    Returns:
        The optimizer steps that are done.
    """
    run.state.note(f"resuming from step {found.step} of {steps}")
    run.state.resumed_from_step = run.state.checkpoint_step = found.step
    run.state.seconds_before = found.trained_seconds
    run.limits.account_for(found.trained_seconds)
    run.metrics.resume(folder / METRICS)
    return found.step
