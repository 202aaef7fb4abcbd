"""How far the training is."""

from __future__ import annotations

from finetune_api.status.field_types import Count, Percent, Time
from finetune_api.values.api_model import Message


class Rollouts(Message):
    """What the last step of reinforced fine-tuning saw."""

    reward: float
    """Mean reward of the sampled responses."""

    accuracy: float
    """Share of them with a right answer."""

    kl: float
    """Mean distance from the warm-up's model, in nats per response, as sampled."""

    clip_fraction: float
    """Share of tokens whose change was clipped."""

    explained_variance: float
    """How much of the variance of returns the predicted values explain: at most 1."""

    entropy: float
    """Mean entropy of the policy at a sampled token, in nats."""

    response_tokens: float
    """Mean length of a response in tokens."""

    rollout_seconds: float
    """Time to sample and judge the responses."""

    update_seconds: float
    """Time to learn from them."""


class Progress(Message):
    """How far the training is."""

    step: Count
    """Optimizer steps done."""

    total_steps: Count
    """Optimizer steps to do."""

    epoch: float | None = None
    """Passes over the data done."""

    percent: Percent
    """Share of the steps done, 0 to 100."""

    loss: float | None = None
    """Training loss of the last step, in nats per answer token."""

    learning_rate: float | None = None
    """Learning rate of the last step."""

    tokens_per_second: float | None = None
    """Tokens of rows (padding left out) trained on per second."""

    rollouts: Rollouts | None = None
    """What was sampled and what it was worth (ReFT)."""

    estimated_completion_time: Time | None = None
    """When training should be done."""
