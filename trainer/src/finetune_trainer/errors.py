"""Every way in which a run can end badly: the exceptions of the trainer, one per failure class.

A message is one sentence or more: what happened, where, and what to do. It holds no secret. The failure classes of
finetune_api give each exception its exit code.
"""

from __future__ import annotations

from typing import Any, ClassVar

from finetune_api.exit_codes import ExitCode
from finetune_api.failures import failure_class
from finetune_api.reasons import Outcome


class TrainerError(Exception):
    """A run ended for a reason that is known."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    outcome: ClassVar[Outcome] = Outcome.INTERNAL

    def __init_subclass__(cls, outcome: Outcome = Outcome.INTERNAL, **arguments: Any) -> None:
        """Take the exit code of an outcome from its failure class.

        Args:
            outcome: what the result message says.
            arguments: those of other base classes.
        """
        super().__init_subclass__(**arguments)
        failure = failure_class(outcome)
        if failure is None or not failure.exit_code:
            raise TypeError(f"{cls.__name__}: {outcome} has no exit code; the trainer ends badly with one of those in "
                            "finetune_api/failures")
        cls.outcome, cls.exit_code = outcome, ExitCode(failure.exit_code)


class BadConfig(TrainerError, outcome=Outcome.BAD_CONFIG):
    """The job cannot run as it is described."""


class BadData(TrainerError, outcome=Outcome.BAD_DATA):
    """The trainer cannot learn from the rows."""


class MissingInput(TrainerError, outcome=Outcome.MISSING_INPUT):
    """A file, a model or a data set does not exist or cannot be opened."""


class Diverged(TrainerError, outcome=Outcome.DIVERGED):
    """The loss became NaN or grew without limit."""


class OutOfMemory(TrainerError, outcome=Outcome.OUT_OF_MEMORY):
    """The accelerator's memory is too small, even for the smallest micro-batch."""


class OutputNotWritable(TrainerError, outcome=Outcome.OUTPUT_NOT_WRITABLE):
    """The output cannot be written."""


class StopRequested(TrainerError, outcome=Outcome.STOPPED):
    """The run was asked to stop; a checkpoint has what was done, where there was something to keep."""


class PeerFailure(TrainerError):
    """Another process of the job ended, cannot be reached, or disagrees; another attempt may succeed."""


def in_words(error: Exception, hint: str = "") -> tuple[ExitCode, Outcome, str]:
    """How a process ends because of an error: exit code, outcome and message.

    Args:
        error: what was raised.
        hint: added to the message of what nobody foresaw.
    """
    if isinstance(error, TrainerError):
        return error.exit_code, error.outcome, str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here.
        return OutOfMemory.exit_code, OutOfMemory.outcome, (
            "the accelerator's memory is too small: set method.quantization: nf4, lower training.maxLength, or choose "
            f"a larger compute.accelerator{hint}")
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
