"""The end of an experiment on a terminal: the ranked table, who won and why, and what has no result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.experiment.status import FineTuneExperimentStatus
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from finetune_trainer.report.experiment.facts import VariantLine, variant_lines, without_result
from finetune_trainer.report.facts import human_bytes, human_seconds

_DISPENSABLE = ("tokens/s", "memory", "before")
"""What the table shows where there is room for it, the least important first."""
_UNBOUNDED = 1000


def show_experiment(console: Console, experiment: FineTuneExperiment, status: FineTuneExperimentStatus) -> None:
    """Show how an experiment ended."""
    if status.ranking:
        console.print(_fitting_table(console, experiment, status))
    for line in _lines(status):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _fitting_table(console: Console, experiment: FineTuneExperiment, status: FineTuneExperimentStatus) -> Table:
    """The table without the columns for which there is no room: no cell is cut. The report has all of them."""
    left_out: tuple[str, ...] = ()
    for title in _DISPENSABLE:
        table = ranking_table(experiment, status, left_out)
        if Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).maximum <= console.width:
            break
        left_out = (*left_out, title)
    return ranking_table(experiment, status, left_out)


def ranking_table(experiment: FineTuneExperiment, status: FineTuneExperimentStatus, left_out: Sequence[str] = ()
                  ) -> Table:
    """The table of the ranking: a line for each variant with a result.

    Args:
        experiment: the experiment.
        status: its status.
        left_out: titles of columns to leave out.
    """
    metric, currency = str(experiment.spec.rank_by.metric), status.cost.currency if status.cost else "USD"
    # Without lines, nine columns fit into 80 characters where names are short.
    table = Table(title=f"{experiment.metadata.name}: ranked by {metric}", title_justify="left", box=SIMPLE_HEAD,
                  pad_edge=False, padding=(0, 0))
    table.add_column("")
    table.add_column("variant", no_wrap=True)
    titles = ("before", metric, "95 %", currency, "time", "tokens/s", "memory")
    for title in titles:
        if title not in left_out:
            table.add_column(title, justify="right", no_wrap=True)
    for line in variant_lines(status):
        cells = dict(zip(titles, _cells(line), strict=True))
        table.add_row(str(line.ranked.rank), line.name,
                      *(cell for title, cell in cells.items() if title not in left_out))
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
