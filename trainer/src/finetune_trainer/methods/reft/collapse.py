"""Decides whether PPO has collapsed, gets no reward, or brought no gain, and writes the message. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from finetune_api.status import Rollouts

WINDOW = 10
PATIENCE = 20
_KL_A_TOKEN = 1.0
_ENTROPY_SHARE = 0.75
ADVICE = ("ReFT can only strengthen what the warm-up sometimes does: it needs chains of thought that are right now and "
          "then, by the right kind of reasoning. Train the warm-up longer or on better chains, or make the questions "
          "easier")


def collapsed(history: Sequence[Rollouts], vocabulary: int) -> str | None:
    """Why the policy has collapsed, or None.

    It has collapsed if a value is not finite, or if the last ten steps, compared with the first ten, have no right
    answer any more, or a lower mean reward together with a KL above one nat per token or an entropy near that of
    guessing.

    Args:
        history: every step so far.
        vocabulary: number of tokens in the vocabulary.
    """
    if not history:
        return None
    for name, value in (("reward", history[-1].reward), ("KL", history[-1].kl), ("entropy", history[-1].entropy)):
        if not math.isfinite(value):
            return f"the {name} of step {len(history)} is {value}"
    if len(history) < 2 * WINDOW:
        return None
    first, last = history[:WINDOW], history[-WINDOW:]
    if _mean(last, _accuracy) == 0 < _mean(first, _accuracy):
        return f"no response has been right for {WINDOW} steps, though some were at first"
    if _mean(last, _reward) >= _mean(first, _reward):
        return None
    drift = _mean(last, lambda seen: seen.kl) / max(1.0, _mean(last, lambda seen: seen.response_tokens))
    if drift > _KL_A_TOKEN:
        return f"the policy ran {drift:.2f} nats per token away from the warm-up while its reward fell"
    entropy = _mean(last, lambda seen: seen.entropy)
    if entropy > _ENTROPY_SHARE * math.log(vocabulary):
        return f"the policy's entropy rose to {entropy:.2f} nats, near guessing ({math.log(vocabulary):.2f})"
    return None


def stuck(history: Sequence[Rollouts]) -> str | None:
    """Why more PPO steps are of no use, or None: no response was right in any step, after at least `PATIENCE` steps."""
    if len(history) < PATIENCE or any(seen.accuracy > 0 for seen in history):
        return None
    return f"not one sampled response was right in {len(history)} steps. {ADVICE}"


def remark(history: Sequence[Rollouts], rollouts: int) -> str | None:
    """The sentence about a run without a gain, or None: the accuracy of the last steps is not above that of the first.

    A rise of at most two standard errors of the difference counts as no gain.

    Args:
        history: all steps.
        rollouts: number of responses per step.
    """
    window = min(WINDOW, len(history) // 2)
    if not window:
        return None
    before, after = _mean(history[:window], _accuracy), _mean(history[-window:], _accuracy)
    middle = (before + after) / 2
    error = math.sqrt(2 * middle * (1 - middle) / (window * rollouts))
    if after - before > 2 * error:
        return None
    return (f"PPO brought no gain: {100 * before:.0f} % of the sampled responses were right in its first {window} "
            f"steps, {100 * after:.0f} % in its last. {ADVICE}")


def _reward(seen: Rollouts) -> float:
    return seen.reward


def _accuracy(seen: Rollouts) -> float:
    return seen.accuracy


def _mean(steps: Sequence[Rollouts], of: Callable[[Rollouts], float]) -> float:
    return sum(map(of, steps)) / len(steps)
