"""Time, passed in, so that a test can hold it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the trainer asks of time."""

    def now(self) -> datetime:
        """The time of day, in UTC."""

    def seconds(self) -> float:
        """Seconds since some moment; never goes back."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.now(UTC)

    def seconds(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()
