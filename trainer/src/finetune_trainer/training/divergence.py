"""When a loss says that training has failed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

WINDOW = 10


def divergence(losses: Sequence[float], grad_norm: float | None, vocabulary: int) -> str | None:
    """Why training is past saving, or None.

    Either a value is not finite, or the mean loss of the last ten steps is worse than guessing every token uniformly
    (ln of the vocabulary, plus one) and half as much again as that of the first ten.

    Args:
        losses: the loss of every step so far, in nats per token.
        grad_norm: the gradient's norm at the last step.
        vocabulary: number of tokens that the model can write.
    """
    if not losses:
        return None
    if not math.isfinite(losses[-1]):
        return f"the loss of step {len(losses)} is {losses[-1]}"
    if grad_norm is not None and not math.isfinite(grad_norm):
        return f"the gradient of step {len(losses)} is {grad_norm}"
    if len(losses) >= 2 * WINDOW:
        first, last = sum(losses[:WINDOW]) / WINDOW, sum(losses[-WINDOW:]) / WINDOW
        if last > math.log(vocabulary) + 1 and last > 1.5 * first:
            return (f"the loss rose from {first:.2f} to {last:.2f} nats per token, which is worse than guessing "
                    f"({math.log(vocabulary):.2f})")
    return None
