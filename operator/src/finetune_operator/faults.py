"""The moments of a pass at which a test may kill the operator.

Production code reports each moment to a hook that it was given. The hook does nothing; a test's entry point passes one
that ends the process.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Moment(StrEnum):
    """A moment of a pass."""

    START = "start"
    """Before the start of a job is written to its status."""

    STARTED = "started"
    """After the start was written."""

    CREATED = "created"
    """After a Job was created, before the status says so."""

    CHANGED = "changed"
    """After an experiment changed a job of its own, before its status says so."""

    FINAL = "final"
    """Before the last status of a job is written."""


FaultHook = Callable[[Moment], None]
"""Called at each moment."""


def no_fault(moment: Moment) -> None:
    """The hook of production: go on."""
