"""The curves of PPO on a real model: thinned for the report, and drawn for a page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CURVES = {"step": "step", "reward": "reward", "accuracy": "right roll-outs", "kl": "KL, nats", "entropy": "entropy",
          "clipFraction": "clipped", "responseTokens": "tokens", "explainedVariance": "explained variance",
          "gradNorm": "gradient norm", "rolloutSeconds": "roll-out s", "updateSeconds": "update s"}
"""What metrics.jsonl has of each PPO step, with its name in the report."""

_POINTS = 10
_STYLE = """body {font: 15px sans-serif; max-width: 46em; margin: 2em auto; color: #222}
figure {margin: 1.5em 0 2.5em 4em} figcaption {margin: 0 0 .7em -4em}
.plot {overflow: visible; font-size: 13px} polyline {fill: none; vector-effect: non-scaling-stroke; stroke: #1764ab;
stroke-width: 2} polyline.raw {stroke: #b9d2ea} .grid {stroke: #ddd} .tick {stroke: #888} .held-out {fill: #c4511a}"""


def ppo_steps(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of PPO among those of a whole run."""
    return [step for step in steps if "reward" in step]


def curve(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over tenths of the PPO steps; fewer where there are fewer steps, none where there is none."""
    sampled = ppo_steps(steps)
    parts = min(_POINTS, len(sampled))
    edges = [len(sampled) * part // parts for part in range(parts + 1)] if parts else []
    return [{title: _mean(sampled[start:end], key) for key, title in CURVES.items()}
            for start, end in itertools.pairwise(edges)]


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [step[key] for step in steps if step.get(key) is not None]
    return float(f"{sum(values) / len(values):.4g}") if values else None


def page(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A page of HTML with the loss of the warm-up and every curve of PPO.

    Args:
        runs: the steps of metrics.jsonl of each run, by its title.
    """
    from finetune_trainer.report.charts import loss_chart
    from finetune_trainer.report.rollout_charts import rollout_charts, supervised

    parts = ["<!doctype html><meta charset=utf-8><title>ReFT on a real model</title>", f"<style>{_STYLE}</style>"]
    for title, steps in runs.items():
        parts += [f"<h2>{title}</h2>", _figure("Loss of the warm-up", loss_chart(supervised(steps), None, None, 0))]
        parts += [_figure(one.title, one.chart) for one in rollout_charts(steps)]
    return "\n".join(parts) + "\n"


def _figure(title: str, chart: str) -> str:
    return f"<figure><figcaption>{title}</figcaption>{chart}</figure>" if chart else ""


def write_page(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the page."""
    path.write_text(page(runs), encoding="utf-8")
