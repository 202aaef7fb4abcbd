"""Faults on demand, for tests of what cannot be made to happen otherwise. `FINETUNE_FAULT=kind:where` chooses one.

| value | what happens |
|---|---|
| `nan:STEP` | the loss of that step is NaN |
| `oom:ROWS` | a micro-batch of more rows runs out of accelerator memory |
| `oom-sampling:ROWS` | a batch of responses of more rows, when they are sampled |
| `oom-scoring:ROWS` | a batch of sampled responses of more rows, when they are scored |
| `oom-answering:ROWS` | a batch of held-out rows of more rows, when they are answered |
| `kill:MOMENT` | the process kills itself (SIGKILL) when it first reaches that moment |
| `kill-after:MOMENT` | the same within the first training step after that moment, which another thread may reach |

The file needs nothing beside the trainer: a pod imports it as `sitecustomize`, with a line that calls `install_fault`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

VARIABLE = "FINETUNE_FAULT"


class Fault:
    """One fault, as `kind:where` says, and whether the processors act as a GPU."""

    def __init__(self, value: str, simulates_accelerator: bool = False) -> None:
        self._kind, _, self._where = value.partition(":")
        self._simulates_accelerator = simulates_accelerator
        self._is_due = False

    def loss_becomes_nan(self, step: int) -> bool:
        return (self._kind, self._where) == ("nan", str(step))

    def run_out_of_memory(self, rows: int, kind: str) -> None:
        if self._kind == kind and rows > int(self._where):
            import torch

            raise torch.OutOfMemoryError(f"simulated: {rows} rows at once")

    def simulates_accelerator(self) -> bool:
        return self._simulates_accelerator

    def reach(self, moment: str) -> None:
        if (self._kind, self._where) == ("kill", moment) or (self._is_due and moment.startswith("step-")):
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_due = self._is_due or (self._kind, self._where) == ("kill-after", moment)


def install_fault(environment: Mapping[str, str], simulates_accelerator: bool = False) -> None:
    """Install the fault that the environment names, if it names one.

    Args:
        environment: the variables of the process.
        simulates_accelerator: whether the processors act as the GPU of a node that has none.
    """
    from finetune_trainer.faults import install

    value = environment.get(VARIABLE, "")
    if value or simulates_accelerator:
        install(Fault(value, simulates_accelerator))
