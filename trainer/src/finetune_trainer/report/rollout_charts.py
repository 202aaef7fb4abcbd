"""What PPO saw, step by step, as small charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from finetune_trainer.report.charts import line_chart

_CHARTS = (
    ("reward", "Mean reward"),
    ("accuracy", "Share of sampled responses with a right answer"),
    ("kl", "Distance from the warm-up (KL), nats per response"),
    ("clipFraction", "Share of tokens whose change was clipped"),
    ("explainedVariance", "Variance of returns explained by the predicted values"),
    ("entropy", "Entropy of the policy, nats per token"),
    ("responseTokens", "Length of a response, tokens"),
    ("rolloutSeconds", "Seconds to sample and judge"),
    ("updateSeconds", "Seconds to learn"),
)


@dataclass(frozen=True)
class RolloutChart:
    """A chart and its title."""

    title: str
    chart: Markup


def supervised(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps that learnt from the data's own answers: all but PPO's, whose loss is another thing."""
    return [step for step in steps if "reward" not in step]


def rollout_charts(steps: Sequence[Mapping[str, Any]]) -> list[RolloutChart]:
    """A chart for each thing watched; none where no step was PPO's."""
    sampled = [step for step in steps if "reward" in step]
    drawn = [RolloutChart(f"{title} over steps", line_chart(f"rollout-{key}", title, sampled, key))
             for key, title in _CHARTS]
    return [one for one in drawn if one.chart]
