"""The learning rate of each step, as a share of the peak learning rate."""

from __future__ import annotations

import math

from finetune_api.spec.training import Scheduler, TrainingSpec


def share_of_peak(step: int, steps: int, training: TrainingSpec) -> float:
    """The factor of the peak learning rate in a step: always above 0, and 1 in at least one step.

    The warm-up rises by the same amount in each step and starts above 0: a step with the rate 0 learns nothing, and a
    run may have only one step. The last step has the peak rate at the latest.

    Args:
        step: the step, counted from 0.
        steps: number of steps of the whole run.
        training: the length of the warm-up and the scheduler that follows it.
    """
    warm_up = min(math.ceil(training.warmup * steps), steps - 1)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    # transformers also asks for the step after the last one.
    done = min(1.0, (step - warm_up) / (steps - warm_up))
    match training.scheduler:
        case Scheduler.CONSTANT:
            return 1.0
        case Scheduler.LINEAR:
            return 1.0 - done
        case Scheduler.COSINE:
            return 0.5 * (1.0 + math.cos(math.pi * done))


def ramp(step: int, steps: int, ramp_steps: int) -> float:
    """The factor for PPO: it rises over `ramp_steps` and then stays at 1. The last step has the peak at the latest."""
    return min(1.0, (step + 1) / max(1, min(ramp_steps, steps)))
