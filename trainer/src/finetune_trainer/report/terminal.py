"""The end of a run on a terminal: the table of scores, time and cost, and the location of the result."""

from __future__ import annotations

from finetune_api.exit_codes import ExitCode
from finetune_api.reasons import Outcome
from rich.console import Console
from rich.table import Table

from finetune_trainer.report.facts import RunFacts, columns, comparisons, human_bytes, human_seconds
from finetune_trainer.report.run_end import RunEnd


def show_end(console: Console, end: RunEnd) -> None:
    """Show how a run ended."""
    if end.facts is not None:
        console.print(comparison_table(end.facts))
        console.print(_figures(end.facts), markup=False, highlight=False)
    if end.result is None:
        return
    style = "green" if end.exit_code == ExitCode.OK else "red"
    if end.result.outcome in (Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY, Outcome.STOPPED):
        style = "yellow"
    console.print(f"{end.result.outcome}: {end.result.message}", style=style, markup=False, highlight=False,
                  soft_wrap=True)
    for line in _locations(end):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def comparison_table(facts: RunFacts) -> Table:
    """The table of scores: a line for each metric, a column for each model."""
    table = Table(title=f"{facts.run.name}: {facts.after.rows} held-out rows", title_justify="left")
    table.add_column("metric")
    for title, _ in columns(facts):
        table.add_column(title, justify="right")
    for line in comparisons(facts):
        table.add_row(line.label, *line.cells)
    return table


def _figures(facts: RunFacts) -> str:
    stages = ", ".join(f"{stage} {human_seconds(seconds)}" for stage, seconds in facts.stage_seconds.items())
    return "\n".join([
        f"wall time   {human_seconds(sum(facts.stage_seconds.values()))} ({stages})",
        f"speed       {facts.tokens_per_second:.0f} tokens/s in training, {generated_per_second(facts):.0f} tokens/s "
        "in generation",
        f"peak memory {human_bytes(facts.peak_memory_bytes)}",
        f"cost        {facts.cost:f} {facts.currency} at {facts.hourly_rate:f} {facts.currency} per hour",
    ])


def generated_per_second(facts: RunFacts) -> float:
    """Generated tokens per second in the evaluation after training; 0 if nothing was generated."""
    return facts.after.generated_tokens / facts.after.generation_seconds if facts.after.generation_seconds else 0.0


def _locations(end: RunEnd) -> list[str]:
    lines = []
    if end.result is not None and end.result.adapter is not None:
        uri = end.result.adapter.uri
        lines.append(f"{uri.rpartition('/')[2]:<12}{_path(uri)}")
    if end.report is not None:
        lines.append(f"report      {_path(end.report)}")
    return lines


def _path(location: str) -> str:
    """A location as a shell takes it: the path of a local file, else the URI."""
    return location.removeprefix("file://")
