"""The limits of a run in money and time, and whether one is reached."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from finetune_api.messages import Limits
from finetune_api.messages.layout import LIMITS_FILE
from finetune_api.spec.policy import BudgetSpec
from finetune_api.values.money import Price
from pydantic import ValidationError

from finetune_trainer.clock import Clock


@dataclass(frozen=True)
class Spending:
    """What a run has spent.

    Attributes:
        spent: money so far, earlier attempts included.
        price: of the job's accelerators.
    """

    spent: Decimal
    price: Price


def stop_reason(limits: Limits, now: datetime, spending: Spending, reserve: Decimal) -> str | None:
    """Why training has to stop now, or None.

    Args:
        limits: the limits as they are now.
        now: the time of day.
        spending: what was spent.
        reserve: what evaluation and upload will still cost.
    """
    if limits.stop:
        return "it was asked to stop and publish"
    if limits.max_cost is not None and spending.spent + reserve >= limits.max_cost:
        in_words = spending.price.in_words
        return (f"budget.maxCost ({in_words(limits.max_cost)}) is reached: {in_words(spending.spent)} are spent, and "
                f"{in_words(reserve)} are reserved for evaluation and upload")
    if limits.stop_at is not None and now >= limits.stop_at:
        return f"budget.maxDuration was reached at {limits.stop_at.isoformat(timespec='seconds')}"
    return None


class LimitsFile:
    """The current limits, read again each time. If the file is missing or broken, the last valid limits hold."""

    def __init__(self, folder: Path | None, first: Limits) -> None:
        self._path = folder / LIMITS_FILE if folder else None
        self._last = first

    def account_for(self, seconds_before: float) -> None:
        """Subtract the time of earlier attempts from the deadline, unless an operator sets the deadline."""
        if self._path is None and self._last.stop_at is not None:
            self._last = self._last.model_copy(update={
                "stop_at": self._last.stop_at - timedelta(seconds=seconds_before)})

    def read(self) -> Limits:
        """The current limits."""
        if self._path is not None:
            # A ConfigMap volume is swapped as a whole; should a read fail, the next step's will not.
            with contextlib.suppress(OSError, ValidationError):
                self._last = Limits.model_validate_json(self._path.read_bytes())
        return self._last


def local_limits(budget: BudgetSpec, hourly_rate: Decimal, clock: Clock) -> Limits:
    """The limits of a run without an operator: the job's budget, from now on."""
    duration = budget.max_duration
    return Limits(stop_at=clock.now() + duration if duration else None, max_cost=budget.max_cost,
                  hourly_rate=hourly_rate)
