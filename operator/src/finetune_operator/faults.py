"""Faults on demand, for tests of what cannot be made to happen otherwise: `FINETUNE_OPERATOR_FAULT=kill:MOMENT`.

The process kills itself (SIGKILL) when it first gets to that moment: `start` (before the start is written), `started`
(after it), `created` (a trainer's Job is made, nothing is told yet), `final` (before the last status is written).
"""

from __future__ import annotations

import os
import signal

VARIABLE = "FINETUNE_OPERATOR_FAULT"


def reach(moment: str) -> None:
    """Die here, if this is the moment."""
    if os.environ.get(VARIABLE) == f"kill:{moment}":
        os.kill(os.getpid(), signal.SIGKILL)
