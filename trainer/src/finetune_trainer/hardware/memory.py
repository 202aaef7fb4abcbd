"""What is done when memory does not suffice for a batch, and so that it does."""

from __future__ import annotations

import contextlib
import ctypes
import gc

import torch

from finetune_trainer.errors import OutOfMemory


def halved(error: torch.OutOfMemoryError, rows: int, advice: str) -> int:
    """How many rows to try next: half as many. What the failed try held is given back.

    Args:
        error: what was raised; call this where it is caught.
        rows: how many did not fit.
        advice: what to write where not even one fits.

    Raises:
        OutOfMemory: it was a single row.
    """
    if rows <= 1:
        raise OutOfMemory(advice) from error
    # The tensors of the failed try hang on the exception's frames until these are gone.
    error.__traceback__ = None
    give_back()
    return rows // 2


def give_back() -> None:
    """Return what is free to the accelerator and to the host; glibc keeps most of it otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # Another C library.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
