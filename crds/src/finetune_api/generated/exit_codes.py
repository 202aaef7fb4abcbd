"""Generated from failures/failure_classes.py: the exit codes of the trainer and of `finetune`.

They are those of sysexits.h where it has one for the case. `make generate` writes this file. Edit the entries there.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How the trainer ended. The operator decides by it whether another attempt follows."""

    OK = 0
    """A result is published. The result message has it."""

    INTERNAL = 1
    """The trainer hit an error of its own, or an error that nobody foresaw. The message quotes it. Of a job that is
    under way: the operator has an error of its own with this job. It tries again at least every minute, and the
    budget still holds."""

    BAD_CONFIG = 64
    """The job cannot run as it is described (EX_USAGE). For example, a template names a column that no row has."""

    BAD_DATA = 65
    """The trainer cannot learn from the rows (EX_DATAERR): they are broken or empty, or their answers do not match
    the schema."""

    MISSING_INPUT = 66
    """A model, a file or a data set does not exist or cannot be opened (EX_NOINPUT): there is no access, or the
    server cannot be reached."""

    NO_ACCELERATOR = 69
    """The trainer cannot use the accelerator that its pod was given (EX_UNAVAILABLE): it sees no GPU, or fewer than
    `compute.gpusPerNode`, or the driver does not work. The next attempt avoids the node for some minutes."""

    DIVERGED = 70
    """The loss became NaN or grew without limit. The last good checkpoint is kept."""

    OUT_OF_MEMORY = 71
    """The accelerator's memory is too small, even for one row at a time with gradient checkpointing."""

    OUTPUT_NOT_WRITABLE = 73
    """The output cannot be written (EX_CANTCREAT). The trainer tries this before it trains."""

    STOPPED = 75
    """The trainer was asked to stop (EX_TEMPFAIL), for example because its node is drained, and wrote a
    checkpoint."""
