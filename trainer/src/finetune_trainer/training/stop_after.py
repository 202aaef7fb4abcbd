"""Whether a job has trained the share of its steps after which it stops: `runPolicy.stopAfter`."""

from __future__ import annotations

from finetune_trainer.data.batches.steps import stop_step, total_steps
from finetune_trainer.training.training_run import TrainingRun


def steps_of_run(run: TrainingRun) -> int:
    """The steps of the whole run, in both stages of ReFT."""
    training, reft = run.spec.training, run.spec.method.reft
    steps = total_steps(len(run.data.train), training.batch_size, training.epochs, training.max_steps)
    return steps + (reft.ppo.steps if reft else 0)


def share_done(run: TrainingRun, step: int) -> str | None:
    """Why training stops after a step, or None. The same in all processes.

    Args:
        run: the training run.
        step: steps done, in both stages of ReFT.
    """
    share = run.spec.run_policy.stop_after
    if share is None:
        return None
    steps = steps_of_run(run)
    return f"runPolicy.stopAfter is {share:g}" if stop_step(steps, share) <= step < steps else None
