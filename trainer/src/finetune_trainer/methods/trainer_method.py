"""What the trainer knows of one method: how it trains, and what the report says of its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun

ReportLines = list[tuple[str, str]]
"""Lines of the report: a name and a value each."""


def no_lines(settings: Any) -> ReportLines:
    """Nothing: for a method without settings."""
    return []


@dataclass(frozen=True)
class TrainerMethod:
    """One method.

    Attributes:
        train: trains a run's model, and gives back what is published.
        report_lines: how the report shows the method's settings, which are resolved.
    """

    train: Callable[[TrainingRun], TrainingResult]
    report_lines: Callable[[Any], ReportLines] = no_lines
