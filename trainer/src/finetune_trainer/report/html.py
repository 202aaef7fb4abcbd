"""The report: one HTML page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import yaml
from finetune_api.messages import Outcome
from finetune_api.messages.layout import METRICS
from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.evaluation.scores import Scores, parse, score
from finetune_trainer.report import charts
from finetune_trainer.report.card import OUTCOMES, caveats, encodable, how_to_ask, notes, reasons
from finetune_trainer.report.code import load_code
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
from finetune_trainer.report.rollout_charts import rollout_charts, supervised
from finetune_trainer.report.settings import settings

_WARNINGS = 50
_LONG_QUESTION = 600
_COLOURS = {Outcome.SUCCEEDED: "good", Outcome.STOPPED_EARLY: "fair", Outcome.QUALITY_GATE: "bad"}
_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("finetune_trainer.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)


def render_report(facts: RunFacts) -> str:
    """The page. Texts from outside are escaped, and the page loads nothing from other addresses."""
    learnt = supervised(facts.steps)
    losses = (_loss(facts.before.scores) if facts.before else None, _loss(facts.after.scores))
    text = _PAGE.get_template("report.html.jinja").render(
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
        examples=_examples(facts),
        judged="it has the right answer" if facts.run.spec.method.reft else _judged(_fields(facts)),
        long_question=_LONG_QUESTION,
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
    return encodable(text)


@dataclass(frozen=True)
class Answer:
    """One answer of a model.

    Attributes:
        title: the column of the model.
        text: the answer.
        right: whether the answer is right, as in the table.
    """

    title: str
    text: str
    right: bool


@dataclass(frozen=True)
class AnsweredExample:
    """A held-out question, the expected answer, and the answers of the models."""

    question: str
    expected: str
    answers: tuple[Answer, ...]


def _examples(facts: RunFacts) -> list[AnsweredExample]:
    fields, before = _fields(facts), facts.before.examples if facts.before else ()
    found = []
    for index, after in enumerate(facts.after.examples):
        shown = [("before", before[index])] if index < len(before) else []
        found.append(AnsweredExample(after.question, after.expected, tuple(
            Answer(title, one.answer, _is_right(one.expected, one.answer, fields) if one.right is None else one.right)
            for title, one in [*shown, ("after", after)]
        )))
    return found


def _fields(facts: RunFacts) -> tuple[str, ...]:
    """The fields that decide whether an answer is right; empty if the whole answer decides."""
    return tuple(facts.after.scores.get(Metric.FIELD_ACCURACY) or ())


def _judged(fields: Sequence[str]) -> str:
    if len(fields) == 1:
        return f"its field {fields[0]} is right"
    return f"all of these fields are right: {', '.join(fields)}" if fields else "it equals the expected answer"


def _is_right(expected: str, answer: str, fields: Sequence[str]) -> bool:
    if fields:
        values = [parse(text) for text in (expected, answer)]
        if not all(isinstance(value, Mapping) and set(fields) <= set(value) for value in values):
            return False
        expected, answer = (json.dumps({field: value[field] for field in fields}) for value in values)
    return bool(score([expected], [answer], [Metric.EXACT_MATCH])[Metric.EXACT_MATCH] == 1)


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
