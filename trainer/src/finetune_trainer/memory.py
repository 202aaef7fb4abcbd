"""What is done when the accelerator's memory does not suffice for a batch."""

from __future__ import annotations

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
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows // 2
