"""Recovery when the accelerator's memory does not suffice for a batch."""

from __future__ import annotations

import contextlib
import ctypes
import gc

import torch

from finetune_trainer.errors import OutOfMemory


def halved(error: torch.OutOfMemoryError, rows: int, advice: str) -> int:
    """The number of rows for the next try: half as many. The memory of the failed try is released.

    Args:
        error: the exception; call this function in its `except` block.
        rows: the number of rows that did not fit.
        advice: the message where a single row does not fit.

    Raises:
        OutOfMemory: `rows` is 1.
    """
    if rows <= 1:
        raise OutOfMemory(advice) from error
    # The exception's frames keep the tensors of the failed try alive.
    error.__traceback__ = None
    give_back()
    return rows // 2


def give_back() -> None:
    """Return free memory to the accelerator and to the host. Otherwise glibc keeps most of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # Another C library.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
