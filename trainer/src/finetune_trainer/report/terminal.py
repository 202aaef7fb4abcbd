"""The end of a run on a terminal: the table, where the time and the money went, and where the result lies."""

from __future__ import annotations

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome, Result
from finetune_api.messages.layout import REPORT
from rich.console import Console
from rich.table import Table

from finetune_trainer.report.facts import RunFacts, columns, comparisons, human_bytes, human_seconds
from finetune_trainer.run.entry import Ending


def show_ending(console: Console, ending: Ending) -> None:
    """Show how a run ended."""
    if isinstance(ending.facts, RunFacts):
        console.print(comparison_table(ending.facts))
        console.print(_figures(ending.facts), markup=False, highlight=False)
    if ending.result is None:
        return
    style = "green" if ending.code is ExitCode.OK else "red"
    if ending.result.outcome in (Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY, Outcome.STOPPED):
        style = "yellow"
    console.print(f"{ending.result.outcome}: {ending.result.message}", style=style, markup=False, highlight=False,
                  soft_wrap=True)
    for line in _places(ending.result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def comparison_table(facts: RunFacts) -> Table:
    """Metrics as lines; baseline, before and after as columns."""
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
        f"speed       {facts.tokens_per_second:.0f} tokens/s trained, {generated_per_second(facts):.0f} tokens/s "
        "generated",
        f"peak memory {human_bytes(facts.peak_memory_bytes)}",
        f"cost        {facts.cost:f} {facts.currency} at {facts.hourly_rate:f} an hour",
    ])


def generated_per_second(facts: RunFacts) -> float:
    """Tokens generated a second in the evaluation after training."""
    return facts.after.generated_tokens / facts.after.generation_seconds if facts.after.generation_seconds else 0.0


def _places(result: Result) -> list[str]:
    if result.adapter is None:
        return []
    folder, _, name = result.adapter.uri.rpartition("/")
    return [f"{name:<12}{_shown(result.adapter.uri)}", f"report      {_shown(f'{folder}/{REPORT}')}"]


def _shown(location: str) -> str:
    """A file location as a path that a shell takes."""
    return location.removeprefix("file://") if location.startswith("file://") else str(location)
