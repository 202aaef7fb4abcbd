"""The learning rate of each step, as a share of its peak."""

from __future__ import annotations

import math

from finetune_api.spec.training import Scheduler, TrainingSpec


def share_of_peak(step: int, steps: int, training: TrainingSpec) -> float:
    """What the peak learning rate is multiplied by in a step; always above 0, and 1 in at least one step.

    The warm-up rises in equal parts, the first of which is the first step's: a step at a rate of 0 learns nothing, and
    a run may have no other. The last step reaches the peak at the latest.

    Args:
        step: from 0.
        steps: of the whole run.
        training: says how long the warm-up is, and what follows it.
    """
    warm_up = min(math.ceil(training.warmup * steps), steps - 1)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    # transformers asks for the step after the last one, too.
    done = min(1.0, (step - warm_up) / (steps - warm_up))
    match training.scheduler:
        case Scheduler.CONSTANT:
            return 1.0
        case Scheduler.LINEAR:
            return 1.0 - done
        case Scheduler.COSINE:
            return 0.5 * (1.0 + math.cos(math.pi * done))


def ramp(step: int, steps: int, ramp_steps: int) -> float:
    """The same of PPO, which rises over `ramp_steps` and stays; the last step reaches the peak at the latest."""
    return min(1.0, (step + 1) / max(1, min(ramp_steps, steps)))
