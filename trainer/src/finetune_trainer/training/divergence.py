"""Decides when training has diverged. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

WINDOW = 10

_TRY = "Lower spec.training.learningRate, raise spec.training.warmup, or look for broken rows"


def divergence(losses: Sequence[float], grad_norm: float | None, vocabulary: int, checkpoint_step: int) -> str | None:
    """What went wrong and what to do, if training has diverged; else None.

    Training has diverged if a value is not finite, or if the mean loss of the last ten steps is both worse than
    guessing every token uniformly (ln of the vocabulary, plus one) and 1.5 times that of the first ten steps.

    The loss of the first step comes from the base model as it was loaded, before any update. So if that is not finite,
    the base is broken, and no training setting helps.

    Args:
        losses: the loss of every step so far, in nats per token.
        grad_norm: the norm of the gradient of the last step.
        vocabulary: the number of tokens that the model can write.
        checkpoint_step: the step of the last complete checkpoint; 0 if there is none.
    """
    if not losses:
        return None
    step = len(losses)
    if step == 1 and not math.isfinite(losses[0]):
        return (f"spec.model.source: the loss of step 1 is {losses[0]}, before any weight was trained, so the base "
                "model itself computes values that are not finite. Choose another model or revision, or another "
                "spec.method.quantization")
    fault = _fault(losses, grad_norm, vocabulary)
    if fault is None:
        return None
    kept = f"the checkpoint of step {checkpoint_step} is kept" if checkpoint_step else "there is no checkpoint yet"
    return f"{fault}; {kept}. {_TRY}"


def _fault(losses: Sequence[float], grad_norm: float | None, vocabulary: int) -> str | None:
    if not math.isfinite(losses[-1]):
        return f"the loss of step {len(losses)} is {losses[-1]}"
    if grad_norm is not None and not math.isfinite(grad_norm):
        return f"the norm of the gradient of step {len(losses)} is {grad_norm}"
    if len(losses) >= 2 * WINDOW:
        first, last = sum(losses[:WINDOW]) / WINDOW, sum(losses[-WINDOW:]) / WINDOW
        if last > math.log(vocabulary) + 1 and last > 1.5 * first:
            return (f"the loss rose from {first:.2f} to {last:.2f} nats per token, which is worse than guessing "
                    f"({math.log(vocabulary):.2f})")
    return None
