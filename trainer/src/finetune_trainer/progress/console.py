"""The progress on a terminal: a bar with loss, speed, time left and cost; plain lines if the output is a file."""

from __future__ import annotations

from finetune_api.messages import ProgressMessage, Stage
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from finetune_trainer.clock import Clock
from finetune_trainer.progress.state import StepReport

_QUIET_SECONDS = 10.0


class ConsoleObserver:
    """Shows the progress of a run on a rich console."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = float("-inf")
        self._stage = ""

    def on_stage(self, stage: Stage) -> None:
        """Print the name of the stage, and end the bar of the stage before."""
        self.close()
        self._stage = str(stage)
        self._said = float("-inf")
        if stage is not Stage.DONE:
            self._console.print(f"[bold]{stage}[/bold]")

    def on_step(self, report: StepReport, message: ProgressMessage) -> None:
        """Move the bar, or print a line every few seconds."""
        progress, cost = message.progress, message.cost
        speed = f"{progress.tokens_per_second:.0f} tokens/s" if progress and progress.tokens_per_second else ""
        left = ""
        if progress and progress.estimated_completion_time:
            seconds = max(0, round((progress.estimated_completion_time - self._clock.now()).total_seconds()))
            left = f"{seconds // 60}:{seconds % 60:02d} left"
        spent = f"{cost.spent} {cost.currency}" if cost and cost.hourly_rate else ""
        rollouts = report.rollouts
        result = f"loss {report.loss:.3f}"
        if rollouts:
            result = f"reward {rollouts.reward:.3f}  right {100 * rollouts.accuracy:.0f} %  KL {rollouts.kl:.2f}"
        details = "  ".join(part for part in (result, speed, left, spent) if part)
        self._show(report.step, report.total_steps, details)

    def on_answers(self, answered: int, total: int) -> None:
        """Move the bar of answers."""
        self._show(answered, total, "answers")

    def on_note(self, text: str) -> None:
        """Print the note on a line of its own."""
        self._console.print(f"  {text}", markup=False, highlight=False)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _show(self, done: int, total: int, details: str) -> None:
        if not self._console.is_terminal:
            now = self._clock.seconds()
            if done == total or now - self._said >= _QUIET_SECONDS:
                self._said = now
                self._console.print(f"  {self._stage}: {done}/{total}  {details}", markup=False, highlight=False)
            return
        if self._bar is None:
            self._bar = Progress(TextColumn("  "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                                 TextColumn("{task.fields[details]}"), console=self._console)
            self._task = self._bar.add_task(self._stage, total=total, details=details)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, details=details)
