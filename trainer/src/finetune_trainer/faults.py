"""A seam for fault injection: production code calls these functions, and they do nothing.

A test that needs a crash at an exact moment, a full GPU on a CPU, or a node that has a GPU in name only, starts the
trainer through an entry point of its own, which installs a `FaultHook` first. Production code never installs one, and
reads no environment variable for it.

The moments that `reach` names: `baseline`, `step-N` (in the middle of step N), `checkpoint-N` (the files of the
checkpoint are uploaded, its manifest is not), `checkpointed-N`, `trained`, `exported` (the adapter is uploaded),
`results` (everything is uploaded but the manifest).
"""

from __future__ import annotations

from typing import Protocol


class FaultHook(Protocol):
    """The faults of one test."""

    def loss_becomes_nan(self, step: int) -> bool:
        """Whether the loss of this step, from 1, becomes NaN."""
        ...

    def run_out_of_memory(self, rows: int, kind: str) -> None:
        """Raise `torch.OutOfMemoryError` if a batch of so many rows is too large for this kind of forward pass."""
        ...

    def simulates_accelerator(self) -> bool:
        """Whether the processors of this machine act as the GPU that the run was planned for."""
        ...

    def reach(self, moment: str) -> None:
        """End the process here if this is the moment."""
        ...


class NoFaults:
    """The hook of production: nothing happens."""

    def loss_becomes_nan(self, step: int) -> bool:
        """Never."""
        return False

    def run_out_of_memory(self, rows: int, kind: str) -> None:
        """Never."""

    def simulates_accelerator(self) -> bool:
        """Never: a GPU is a GPU."""
        return False

    def reach(self, moment: str) -> None:
        """Nothing."""


_hook: FaultHook = NoFaults()


def install(hook: FaultHook) -> None:
    """Install the faults of a test in this process. Only test entry points call this."""
    global _hook
    _hook = hook


def loss_becomes_nan(step: int) -> bool:
    """Whether the loss of this step, from 1, becomes NaN."""
    return _hook.loss_becomes_nan(step)


def run_out_of_memory(rows: int, kind: str = "oom") -> None:
    """Raise as the accelerator's allocator does, if a test wants it for a batch of so many rows.

    Args:
        rows: the rows of the batch.
        kind: `oom` (a micro-batch of training), `oom-sampling`, `oom-scoring` or `oom-answering`.
    """
    _hook.run_out_of_memory(rows, kind)


def simulates_accelerator() -> bool:
    """Whether a test lets the processors of this machine act as the GPU that the run was planned for."""
    return _hook.simulates_accelerator()


def reach(moment: str) -> None:
    """Mark a moment at which a test may end the process."""
    _hook.reach(moment)
