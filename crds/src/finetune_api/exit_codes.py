"""The exit codes of the trainer and of `finetune`: sysexits.h where it has one for the case."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What an exit code means, and so what the operator does about it."""

    OK = 0
    """A result is published, and stands in the result message."""

    INTERNAL = 1
    """Something nobody foresaw; worth another try."""

    BAD_CONFIG = 64
    """The job's description can't work (EX_USAGE)."""

    BAD_DATA = 65
    """The data can't be learnt from (EX_DATAERR)."""

    MISSING_INPUT = 66
    """A file, model or data set isn't there or can't be opened (EX_NOINPUT)."""

    DIVERGED = 70
    """The loss became NaN or ran away; the last good checkpoint is kept."""

    OUT_OF_MEMORY = 71
    """The accelerator's memory doesn't suffice, even for the smallest micro-batch."""

    OUTPUT_NOT_WRITABLE = 73
    """The output can't be written (EX_CANTCREAT)."""

    STOPPED = 75
    """Asked to stop; a checkpoint is there, and the next attempt goes on from it (EX_TEMPFAIL)."""
