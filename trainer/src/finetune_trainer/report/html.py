"""The report: one HTML page that needs no other file."""

from __future__ import annotations

from typing import Any

import yaml
from finetune_api.messages import Outcome
from finetune_api.messages.layout import METRICS
from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.evaluation.scores import Scores
from finetune_trainer.report import charts
from finetune_trainer.report.card import OUTCOMES, caveats, how_to_ask, notes, reasons
from finetune_trainer.report.code import load_code
from finetune_trainer.report.examples import answered_examples, judged
from finetune_trainer.report.facts import (
    RunFacts,
    columns,
    comparisons,
    figures,
    human_bytes,
    human_seconds,
    row_counts,
    summary,
)
from finetune_trainer.report.page import render_page
from finetune_trainer.report.rollout_charts import rollout_charts, supervised
from finetune_trainer.report.settings import settings

_WARNINGS = 50
_COLOURS = {Outcome.SUCCEEDED: "good", Outcome.STOPPED_EARLY: "fair", Outcome.QUALITY_GATE: "bad"}


def render_report(facts: RunFacts) -> str:
    """The page. Texts from outside are escaped, and the page loads nothing from other addresses."""
    learnt = supervised(facts.steps)
    losses = (_loss(facts.before.scores) if facts.before else None, _loss(facts.after.scores))
    return render_page(
        "report.html.jinja",
        facts=facts,
        outcome=OUTCOMES[facts.outcome],
        colour=_COLOURS[facts.outcome],
        summary=summary(facts),
        reasons=reasons(facts),
        figures=figures(facts),
        columns=[title for title, _ in columns(facts)],
        comparisons=comparisons(facts),
        notes=notes(facts),
        loss=charts.loss_chart(learnt, *(losses if len(learnt) == len(facts.steps) else (losses[0], None)),
                               facts.resumed_from_step),
        held_out=any(loss is not None for loss in losses),
        window=charts.average_window(learnt),
        rollout_charts=rollout_charts(facts.steps),
        rollouts=facts.rollouts,
        rate=charts.learning_rate_chart(facts.steps),
        stages=charts.stage_bars(facts.stage_seconds),
        examples=answered_examples(facts),
        judged=judged(facts),
        settings=settings(facts),
        money=_money(facts),
        memory=_memory(facts),
        counts=row_counts(facts),
        warnings=facts.findings[:_WARNINGS],
        more_warnings=max(0, len(facts.findings) - _WARNINGS),
        code=load_code(facts),
        how_to_ask=how_to_ask(facts),
        caveats=caveats(facts),
        configuration=_as_yaml(facts.run.spec),
        metrics_file=METRICS,
    )


def _loss(scores: Scores) -> float | None:
    return scores.get(Metric.LOSS)


def _money(facts: RunFacts) -> list[tuple[str, str]]:
    budget = facts.run.spec.budget.max_cost
    lines = [("spent", f"{facts.cost:f} {facts.currency}"),
             ("rate", f"{facts.hourly_rate:f} {facts.currency} per hour"),
             ("this attempt", f"number {facts.run.attempt}, {human_seconds(facts.wall_seconds)}")]
    if budget is not None:
        lines.insert(1, ("budget", f"{budget:f} {facts.currency}"))
    return lines


def _memory(facts: RunFacts) -> list[tuple[str, str]]:
    of = facts.run.accelerator.memory_bytes
    lines = [("peak", human_bytes(facts.peak_memory_bytes) + (f" of {human_bytes(of)}" if of else "")),
             ("rows per forward pass", f"{facts.micro_batch_size:,}"), ("device", facts.device)]
    if facts.base.get("parameters"):
        lines.insert(2, ("base model", f"{facts.base['parameters']:,} parameters"))
    if facts.base.get("kernels"):
        lines.append(("kernels", str(facts.base["kernels"])))
    return lines


class _Blocks(yaml.SafeDumper):
    """Writes a text of several lines as a YAML block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Blocks.add_representer(str, _text)


def _as_yaml(spec: FineTuneJobSpec) -> str:
    content: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    return yaml.dump(content, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=90)
