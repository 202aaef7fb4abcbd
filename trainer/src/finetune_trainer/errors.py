"""The exceptions with which a run ends, one per failure class.

    TrainerError
    ├── TerminalError           another attempt would end in the same way
    │   ├── BadConfig           the job cannot run as it is described
    │   ├── BadData             the trainer cannot learn from the rows
    │   ├── MissingInput        a file, a model or a data set is missing
    │   ├── Diverged            the loss became NaN or grew without limit
    │   └── OutputNotWritable   the output cannot be written
    └── RetryableError          another attempt may succeed
        ├── NoAccelerator       the accelerator that the run was planned for cannot be used
        ├── OutOfMemory         the accelerator's memory is too small for the smallest micro-batch
        ├── StopRequested       the run was asked to stop
        └── PeerFailure         another process of the job failed

A message names the field, its value, the limit and the cure. It holds no secret. The table of failure classes in
finetune_api gives each exception its exit code and its retry rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from finetune_api.exit_codes import ExitCode
from finetune_api.failures import failure_class
from finetune_api.reasons import Outcome


class TrainerError(Exception):
    """A run ended for a known reason.

    Attributes:
        exit_code: the exit code of the process.
        outcome: the outcome in the result message.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    outcome: ClassVar[Outcome] = Outcome.INTERNAL

    def __init_subclass__(cls, outcome: Outcome = Outcome.INTERNAL, **arguments: Any) -> None:
        """Take the exit code of an outcome from its failure class.

        Args:
            outcome: the outcome in the result message.
            arguments: the arguments of other base classes.

        Raises:
            TypeError: the outcome has no exit code.
        """
        super().__init_subclass__(**arguments)
        failure = failure_class(outcome)
        if failure is None or not failure.exit_code:
            raise TypeError(f"{cls.__name__}: {outcome} has no exit code; the trainer ends badly with one of those in "
                            "finetune_api/failures")
        cls.outcome, cls.exit_code = outcome, ExitCode(failure.exit_code)


class TerminalError(TrainerError):
    """Another attempt would end in the same way."""


class RetryableError(TrainerError):
    """Another attempt may succeed."""


class BadConfig(TerminalError, outcome=Outcome.BAD_CONFIG):
    """The job cannot run as it is described."""


class BadData(TerminalError, outcome=Outcome.BAD_DATA):
    """The trainer cannot learn from the rows."""


class MissingInput(TerminalError, outcome=Outcome.MISSING_INPUT):
    """A file, a model or a data set does not exist or cannot be opened."""


class Diverged(TerminalError, outcome=Outcome.DIVERGED):
    """The loss became NaN or grew without limit."""


class OutputNotWritable(TerminalError, outcome=Outcome.OUTPUT_NOT_WRITABLE):
    """The output cannot be written."""


class NoAccelerator(RetryableError, outcome=Outcome.NO_ACCELERATOR):
    """The accelerator that the run was planned for cannot be used."""


class OutOfMemory(RetryableError, outcome=Outcome.OUT_OF_MEMORY):
    """The accelerator's memory is too small, even for the smallest micro-batch."""


class StopRequested(RetryableError, outcome=Outcome.STOPPED):
    """The run was asked to stop. If a step was done, a checkpoint is in the output."""


class PeerFailure(RetryableError):
    """Another process of the job ended, cannot be reached, or read different inputs."""


@dataclass(frozen=True)
class Failure:
    """How a process ends because of an exception.

    Attributes:
        exit_code: its exit code.
        outcome: the outcome in its result message.
        message: the message, for people.
    """

    exit_code: ExitCode
    outcome: Outcome
    message: str


def failure_of(error: Exception, hint: str = "") -> Failure:
    """How a process ends because of an exception.

    Args:
        error: the exception.
        hint: a text that is added to the message of an unexpected exception.
    """
    if isinstance(error, TrainerError):
        return Failure(error.exit_code, error.outcome, str(error))
    if type(error).__name__ == "OutOfMemoryError":  # That of torch, which this module must not import.
        return Failure(OutOfMemory.exit_code, OutOfMemory.outcome,
                       "the accelerator's memory is too small: set method.quantization: nf4, lower training.maxLength, "
                       f"or choose a larger compute.accelerator{hint}")
    if isinstance(error, OSError):
        path = f" ({error.filename})" if error.filename else ""
        return Failure(ExitCode.INTERNAL, Outcome.INTERNAL, f"the operating system refused: {error.strerror}{path}")
    return Failure(ExitCode.INTERNAL, Outcome.INTERNAL,
                   f"an unexpected error: {type(error).__name__}: {first_line(error)}{hint}")


def first_line(error: Exception) -> str:
    """The first line of an exception's text, since the text can fill a page; its class name if it has no text.

    If the first line ends with a colon, the next line belongs to it.
    """
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # The text of an exception may contain a value whose own conversion to text fails.
        lines = []
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{text} is not known" if isinstance(error, KeyError) else text
