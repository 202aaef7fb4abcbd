"""What a pass needs of the process that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.faults import FaultHook, no_fault


def _lead_always() -> None:
    """The check of an operator that runs without a Lease."""


@dataclass(frozen=True)
class Runtime:
    """What a pass needs of the process.

    Attributes:
        clock: the time, in UTC.
        check_lease: raises LeaseLost if this replica may not act.
        fault_hook: called at each moment at which a test may kill the process.
    """

    clock: Callable[[], datetime]
    check_lease: Callable[[], None] = _lead_always
    fault_hook: FaultHook = no_fault
