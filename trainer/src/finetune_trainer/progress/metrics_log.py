"""metrics.jsonl: one line a step, and one a stage."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_api.messages import ProgressMessage, Stage

from finetune_trainer.clock import Clock
from finetune_trainer.progress.state import StepReport


class MetricsLog:
    """Appends whole lines to metrics.jsonl."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    def on_stage(self, stage: Stage) -> None:
        """Write a line for a stage that starts."""
        self._write({"stage": stage})

    def on_step(self, report: StepReport, message: ProgressMessage) -> None:
        """Write a line for a step."""
        self._write({
            "step": report.step, "epoch": round(report.epoch, 4), "loss": report.loss,
            "learningRate": report.learning_rate, "gradNorm": report.grad_norm, "tokens": report.tokens,
            "seconds": round(report.seconds, 4), "peakMemoryBytes": report.peak_memory_bytes,
            "spent": str(message.cost.spent) if message.cost else None,
            "currency": message.cost.currency if message.cost else None,
            **(report.rollouts.model_dump() if report.rollouts else {}),
        })

    def on_answers(self, answered: int, total: int) -> None:
        """Write nothing: the report has the answers."""

    def on_note(self, text: str) -> None:
        """Write a line for a note."""
        self._write({"note": text})

    def resume(self, saved: Path) -> None:
        """Put the lines that a checkpoint holds, if any, before those of this attempt."""
        if saved.exists():
            self.path.write_bytes(saved.read_bytes() + (self.path.read_bytes() if self.path.exists() else b""))

    def steps(self) -> list[dict[str, Any]]:
        """The lines of steps, the last one of each step, in order."""
        if not self.path.exists():
            return []
        return steps_of(self.path.read_text(encoding="utf-8", errors="replace"))

    def _write(self, record: dict[str, Any]) -> None:
        line = {"time": self._clock.now().isoformat(timespec="milliseconds"), **record}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def steps_of(text: str) -> list[dict[str, Any]]:
    """The lines of steps in the text of a log, the last one of each step, in order."""
    steps: dict[int, dict[str, Any]] = {}
    for written in text.splitlines():
        # A full disk cuts a line, and a checkpoint's lines come from outside.
        with suppress(ValueError, RecursionError):
            line = json.loads(written)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                steps[line["step"]] = line
    return [steps[step] for step in sorted(steps)]
