"""The end of an experiment on a terminal: the ranked table, who won and why, and what has no result."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.experiment.status import FineTuneExperimentStatus
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from finetune_trainer.report.experiment.facts import VariantLine, variant_lines, without_result
from finetune_trainer.report.facts import human_bytes, human_seconds


def show_experiment(console: Console, experiment: FineTuneExperiment, status: FineTuneExperimentStatus) -> None:
    """Show how an experiment ended."""
    if status.ranking:
        console.print(ranking_table(experiment, status))
    for line in _lines(status):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def ranking_table(experiment: FineTuneExperiment, status: FineTuneExperimentStatus) -> Table:
    """The table of the ranking: a line for each variant with a result."""
    metric, currency = str(experiment.spec.rank_by.metric), status.cost.currency if status.cost else "USD"
    # Without lines, nine columns fit into 80 characters.
    table = Table(title=f"{experiment.metadata.name}: ranked by {metric}", title_justify="left", box=SIMPLE_HEAD,
                  pad_edge=False, padding=(0, 0))
    table.add_column("")
    table.add_column("variant", no_wrap=True, overflow="fold")
    for title in ("before", metric, "95 %", currency, "time", "tokens/s", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for line in variant_lines(status):
        table.add_row(str(line.ranked.rank), line.name, *_cells(line))
    return table


def _cells(line: VariantLine) -> Iterator[str]:
    one = line.ranked
    yield f"{line.before:.3f}" if line.before is not None else "–"
    yield f"{one.score:.3f}" + (f" ± {one.spread:.3f}" if one.spread is not None else "")
    yield f"{one.low:.3f}–{one.high:.3f}" if one.low is not None and one.high is not None else "–"
    yield f"{one.cost:.4f}"
    yield human_seconds(3600 * line.hours)
    yield f"{line.tokens_per_second:.0f}" if line.tokens_per_second else "–"
    yield human_bytes(line.peak_bytes) if line.peak_bytes else "–"


def _lines(status: FineTuneExperimentStatus) -> Iterator[str]:
    for one in status.ranking[1:]:
        yield f"{one.variant}: {one.verdict}"
    yield from dict.fromkeys(f"{run.variant} is {run.settings}" for run in status.runs if run.settings)
    for run in without_result(status):
        yield f"{run.variant} ({run.job}): {run.phase}, {run.reason}: {run.message}"
    if status.conclusion:
        yield status.conclusion
    if status.cost and status.cost.saved:
        yield f"early stop saved about {status.cost.saved:f} {status.cost.currency}"
    winner = next((run for run in status.runs if run.variant == status.winner and run.adapter and run.rung is None),
                  None)
    if winner and winner.adapter:
        yield f"{'winner':<12}{winner.adapter.removeprefix('file://')}"
    if status.report:
        yield f"{'report':<12}{status.report.removeprefix('file://')}"
