"""Small charts of PPO: one for each roll-out metric, over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from finetune_trainer.report.charts import line_chart

_CHARTS = (
    ("reward", "Mean reward"),
    ("accuracy", "Share of sampled responses with a right answer"),
    ("kl", "Distance from the warm-up model (KL), nats per response"),
    ("clipFraction", "Share of clipped tokens"),
    ("explainedVariance", "Variance of returns explained by the predicted values"),
    ("entropy", "Entropy of the policy, nats per token"),
    ("responseTokens", "Length of a response, tokens"),
    ("rolloutSeconds", "Seconds to sample and score responses"),
    ("updateSeconds", "Seconds to update the policy"),
)


@dataclass(frozen=True)
class RolloutChart:
    """A chart and its title."""

    title: str
    chart: Markup


def supervised(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The supervised steps. PPO steps are left out: their loss means something else."""
    return [step for step in steps if "reward" not in step]


def rollout_charts(steps: Sequence[Mapping[str, Any]]) -> list[RolloutChart]:
    """One chart per roll-out metric; none if the run had no PPO step."""
    sampled = [step for step in steps if "reward" in step]
    drawn = [RolloutChart(f"{title} over steps", line_chart(f"rollout-{key}", title, sampled, key))
             for key, title in _CHARTS]
    return [one for one in drawn if one.chart]
