"""The page of an experiment: one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_api.experiment.ranking import difference_in_words
from finetune_api.messages import AnsweredQuestion, GivenAnswer
from finetune_api.spec.evaluation import LOWER_IS_BETTER

from finetune_trainer.evaluation.comparison import Difference
from finetune_trainer.report.examples import Answer, AnsweredExample
from finetune_trainer.report.experiment import charts
from finetune_trainer.report.experiment.facts import ExperimentFacts, VariantLine, variant_lines, without_result
from finetune_trainer.report.experiment.marks import MOST_STYLES, key
from finetune_trainer.report.experiment.take_home import take_home
from finetune_trainer.report.facts import Figure, human_bytes, human_seconds, score_text
from finetune_trainer.report.page import render_page

_QUESTIONS = 8
MOST_ANSWERS = 12
"""Of so many variants the answers are shown."""


def render_experiment(facts: ExperimentFacts) -> str:
    """The page. Texts from outside are escaped, and the page loads nothing from other addresses."""
    lines = variant_lines(facts.status)
    questions, judged = same_questions(facts, lines)
    costly = any(line.cost for line in lines)
    return render_page(
        "experiment/experiment.html.jinja",
        name=facts.resource.metadata.name, namespace=facts.resource.metadata.namespace, created=facts.created,
        lead=_lead(facts), colour="good" if facts.status.winner else "fair", take_home=take_home(facts),
        winner=facts.status.winner, figures=list(_figures(facts, lines)), currency=facts.currency,
        metric=charts.metric_title(facts), better="lower" if facts.metric in LOWER_IS_BETTER else "higher",
        rows=[TableRow.of(facts, line) for line in lines], verdicts=list(facts.status.ranking[1:]),
        gains=[(line, gain_words(facts, gain)) for line in lines if (gain := facts.gains.get(line.name))],
        settings=[(line.name, line.settings) for line in lines if line.settings],
        scores=charts.score_chart(facts, lines), shown_scores=min(len(lines), charts.MOST_SCORES),
        has_reference=facts.reference_score is not None,
        by_price=charts.scatter(facts, lines, lambda line: float(line.cost), "cost", "Score against cost") if costly
        else charts.scatter(facts, lines, lambda line: line.hours * 60, "time", "Score against time"),
        price=f"cost in {facts.currency}" if costly else "time in minutes, since nothing was charged",
        by_memory=charts.scatter(facts, lines, _gibibytes, "memory", "Score against memory"),
        losses=charts.loss_curves(facts, lines),
        curves=[(key(line.ranked.rank - 1), line.name) for line in lines[:MOST_STYLES]],
        questions=questions, judged=judged, shown_answers=min(len(lines), MOST_ANSWERS), variants=len(lines),
        unranked=without_result(facts.status), repeats=facts.resource.spec.repeats,
        places=[(line.name, adapter) for line in lines for adapter in line.adapters],
        tolerance=facts.resource.spec.rank_by.tolerance,
    )


def _gibibytes(line: VariantLine) -> float | None:
    return line.peak_bytes / 2**30 if line.peak_bytes else None


@dataclass(frozen=True)
class TableRow:
    """A line of the ranked table.

    Attributes:
        place: the variant's place.
        name: its name.
        method: the usual name of its method.
        cells: the other columns.
    """

    place: int
    name: str
    method: str
    cells: tuple[str, ...]

    @classmethod
    def of(cls, facts: ExperimentFacts, line: VariantLine) -> TableRow:
        """The line of a variant."""
        one, metric = line.ranked, facts.metric
        interval = (f"{score_text(metric, one.low)} to {score_text(metric, one.high)}"
                    if one.low is not None and one.high is not None else "–")
        spread = f" ± {score_text(metric, one.spread)}" if one.spread is not None else ""
        return cls(one.rank, one.variant, facts.method(line), (
            score_text(metric, line.before), score_text(metric, one.score) + spread, interval, f"{one.cost:f}",
            human_seconds(3600 * line.hours), f"{line.tokens_per_second:,.0f}" if line.tokens_per_second else "–",
            human_bytes(line.peak_bytes) if line.peak_bytes else "–"))


def gain_words(facts: ExperimentFacts, gain: Difference) -> str:
    """Whether a variant is better after training than before, and by how much."""
    is_better = (gain.value < 0) is (facts.metric in LOWER_IS_BETTER)
    words = f"{'better' if is_better else 'worse'} than" if gain.is_clear else "not clearly different from"
    return f"{words} before training: {difference_in_words(gain.value, gain.low, gain.high, gain.p_value)}"


def _lead(facts: ExperimentFacts) -> str:
    """What was compared."""
    template = facts.resource.spec.template.spec
    count = len({run.variant for run in facts.status.runs})
    return (f"{count} variants of fine-tuning {template.model.source} on {template.dataset.source}, ranked by "
            f"{charts.metric_title(facts)} on held-out rows after training.")


def _figures(facts: ExperimentFacts, lines: Sequence[VariantLine]) -> Iterator[Figure]:
    """The most important numbers."""
    status = facts.status
    if lines:
        best = lines[0]
        value = score_text(facts.metric, best.ranked.score)
        if best.before is not None:
            value = f"{score_text(facts.metric, best.before)} → {value}"
        reference = facts.reference_score
        beside = f"; reference model {score_text(facts.metric, reference)}" if reference is not None else ""
        yield Figure("best score", value, f"{charts.metric_title(facts)}, {best.name}{beside}")
    if status.cost:
        budget = facts.resource.spec.budget.max_cost
        yield Figure("cost of all jobs", f"{status.cost.spent:f} {status.cost.currency}",
                     f"of a budget of {budget:f} {status.cost.currency}" if budget is not None else "without a limit")
    hours = sum(run.hours or 0.0 for run in status.runs)
    yield Figure("time of all jobs", human_seconds(3600 * hours), f"{len(status.runs)} jobs")
    ranked = {line.name for line in lines}
    rows = max((line.ranked.rows for line in lines), default=0)
    yield Figure("variants with a result", f"{len(ranked)} of {len({run.variant for run in status.runs})}",
                 f"compared on up to {rows:,} held-out rows" if rows else "no scores of single rows")


def same_questions(facts: ExperimentFacts, lines: Sequence[VariantLine]) -> tuple[list[AnsweredExample], str]:
    """The first held-out questions with the answers of the variants, and what makes an answer count as right.

    Questions that most variants were asked come first. The answers before training are shown once where they are the
    same for all, as they are for variants of one base model.
    """
    answers = [(line.name, {one.row: one for one in found.questions}, found.judged) for line in lines[:MOST_ANSWERS]
               if line.jobs and (result := facts.results.get(line.jobs[0])) and (found := result.answers)]
    asked = dict.fromkeys(row for _, questions, _ in answers for row in questions)
    rows = sorted(asked, key=lambda row: -sum(row in questions for _, questions, _ in answers))[:_QUESTIONS]
    examples = []
    for row in rows:
        given = [(name, questions[row]) for name, questions, _ in answers if row in questions]
        examples.append(AnsweredExample(given[0][1].question, given[0][1].expected, tuple(_answers(given))))
    return examples, next((judged for _, _, judged in answers), "")


def _answers(given: Sequence[tuple[str, AnsweredQuestion]]) -> Iterator[Answer]:
    before = [(name, one.before) for name, one in given if one.before is not None]
    if len(before) > 1 and len({one.text for _, one in before}) == 1:
        before = [("", before[0][1])]
    for name, one in before:
        yield _answer(f"before, {name}" if name else "before training", one)
    reference = next((one.reference for _, one in given if one.reference is not None), None)
    if reference is not None:
        yield _answer("reference model", reference)
    for name, question in given:
        if question.after is not None:
            yield _answer(name, question.after)


def _answer(title: str, given: GivenAnswer) -> Answer:
    return Answer(title, given.text, given.right)
