"""Whether a job has trained the share of its steps after which it stops: `runPolicy.stopAfter`."""

from __future__ import annotations

from finetune_trainer.data.batches.steps import stop_step, total_steps
from finetune_trainer.training.training_run import TrainingRun


def share_done(run: TrainingRun, step: int) -> str | None:
    """Why training stops after a step, or None. The same in all processes.

    Args:
        run: the training run.
        step: steps done, in both stages of ReFT.
    """
    share, training, reft = run.spec.run_policy.stop_after, run.spec.training, run.spec.method.reft
    if share is None:
        return None
    steps = total_steps(len(run.data.train), training.batch_size, training.epochs, training.max_steps)
    steps += reft.ppo.steps if reft else 0
    return f"runPolicy.stopAfter is {share:g}" if stop_step(steps, share) <= step < steps else None
