"""The operator as its own process, which dies at a moment: `FINETUNE_OPERATOR_FAULT=kill:MOMENT`.

The moments are those of `finetune_operator.faults.Moment`. Without the variable the operator runs as usual.
"""

from __future__ import annotations

import os
import signal

from finetune_operator.__main__ import main
from finetune_operator.faults import Moment

VARIABLE = "FINETUNE_OPERATOR_FAULT"


def kill(moment: Moment) -> None:
    """End this process at once if this is the moment."""
    if os.environ.get(VARIABLE) == f"kill:{moment}":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(fault_hook=kill))
