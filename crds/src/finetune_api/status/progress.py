"""How far the training is."""

from __future__ import annotations

from finetune_api.status.field_types import Count, Percent, Time
from finetune_api.values.api_model import Message


class Rollouts(Message):
    """Metrics of the last step of reinforced fine-tuning (ReFT)."""

    reward: float
    """Mean reward of the sampled responses."""

    accuracy: float
    """Share of the sampled responses with a correct answer."""

    kl: float
    """Mean KL divergence from the warm-up model, in nats per response, estimated on the samples."""

    clip_fraction: float
    """Share of tokens whose probability ratio was clipped."""

    explained_variance: float
    """Share of the returns' variance that the predicted values explain, at most 1."""

    entropy: float
    """Mean entropy of the policy per sampled token, in nats."""

    response_tokens: float
    """Mean length of a response, in tokens."""

    rollout_seconds: float
    """Seconds to sample and score the responses."""

    update_seconds: float
    """Seconds to update the policy."""


class Progress(Message):
    """How far the training is."""

    step: Count
    """Number of optimizer steps done."""

    total_steps: Count
    """Number of optimizer steps planned."""

    epoch: float | None = None
    """Number of passes over the data done."""

    percent: Percent
    """Share of the steps done, 0 to 100."""

    loss: float | None = None
    """Training loss of the last step, in nats per answer token."""

    learning_rate: float | None = None
    """Learning rate of the last step."""

    tokens_per_second: float | None = None
    """Tokens per second, without padding."""

    rollouts: Rollouts | None = None
    """Metrics of the roll-outs (ReFT)."""

    estimated_completion_time: Time | None = None
    """When training is expected to end."""
