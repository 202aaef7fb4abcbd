"""Every way in which a run can end badly.

    TrainerError
    ├── BadConfig            64  the job's description can't work
    ├── BadData              65  the rows can't be learnt from
    ├── MissingInput         66  a file, model or data set isn't there
    ├── Diverged             70  the loss became NaN or ran away
    ├── OutOfMemory          71  even the smallest micro-batch doesn't fit
    ├── OutputNotWritable    73  the output can't be written
    ├── StopRequested        75  asked to stop
    └── PeerFailure           1  another process of the job is gone

A message is one sentence or more: what happened, where, and what to do. It holds no secret.
"""

from __future__ import annotations

from typing import ClassVar

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome


class TrainerError(Exception):
    """A run ended for a reason that is known."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    outcome: ClassVar[Outcome] = Outcome.INTERNAL


class BadConfig(TrainerError):
    """The job's description can't work."""

    exit_code = ExitCode.BAD_CONFIG
    outcome = Outcome.BAD_CONFIG


class BadData(TrainerError):
    """The rows can't be learnt from."""

    exit_code = ExitCode.BAD_DATA
    outcome = Outcome.BAD_DATA


class MissingInput(TrainerError):
    """A file, model or data set isn't there or can't be opened."""

    exit_code = ExitCode.MISSING_INPUT
    outcome = Outcome.MISSING_INPUT


class Diverged(TrainerError):
    """The loss became NaN or ran away."""

    exit_code = ExitCode.DIVERGED
    outcome = Outcome.DIVERGED


class OutOfMemory(TrainerError):
    """The accelerator's memory doesn't suffice, even for the smallest micro-batch."""

    exit_code = ExitCode.OUT_OF_MEMORY
    outcome = Outcome.OUT_OF_MEMORY


class OutputNotWritable(TrainerError):
    """The output can't be written."""

    exit_code = ExitCode.OUTPUT_NOT_WRITABLE
    outcome = Outcome.OUTPUT_NOT_WRITABLE


class StopRequested(TrainerError):
    """Asked to stop; what was done is in a checkpoint where there was something to keep."""

    exit_code = ExitCode.STOPPED
    outcome = Outcome.STOPPED


class PeerFailure(TrainerError):
    """Another process of the job ended, can't be reached, or sees something else; worth another try."""


def in_words(error: Exception, hint: str = "") -> tuple[ExitCode, Outcome, str]:
    """How a process ends because of an error: exit code, outcome and message.

    Args:
        error: what was raised.
        hint: added to the message of what nobody foresaw.
    """
    if isinstance(error, TrainerError):
        return error.exit_code, error.outcome, str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here.
        return (ExitCode.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY, "the accelerator's memory doesn't suffice: write "
                f"quantization: nf4 or a smaller spec.training.maxLength, or choose a larger accelerator{hint}")
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return ExitCode.INTERNAL, Outcome.INTERNAL, f"the machine refused: {error.strerror}{place}"
    words = f"{type(error).__name__}: {first_line(error)}"
    return ExitCode.INTERNAL, Outcome.INTERNAL, f"something unforeseen: {words}{hint}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, and the next where that only announces it: errors can fill a page.

    Its kind where it says nothing.
    """
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # An error about a value writes the value, which may refuse to be written.
        lines = []
    if not lines:
        return type(error).__name__
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{said} is not known" if isinstance(error, KeyError) else said
