"""How a run ended, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Result, RunFigures

from finetune_trainer.report.facts import RunFacts


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        exit_code: the exit code of the process.
        result: the result message; None in a process that only helped to train.
        facts: the facts of the run; None if this run published nothing.
        report: the location of the report; None if there is none.
        figures: what the run took; None if it did not train.
    """

    exit_code: ExitCode
    result: Result | None
    facts: RunFacts | None = None
    report: str | None = None
    figures: RunFigures | None = None
