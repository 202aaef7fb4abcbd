"""The exceptions of the trainer agree with the table of failure classes."""

from __future__ import annotations

import pytest
from finetune_api.exit_codes import ExitCode
from finetune_api.failures import Retry, failure_class, failure_class_of_exit_code
from finetune_api.reasons import Outcome
from finetune_trainer import errors
from finetune_trainer.errors import (
    BadData,
    OutOfMemory,
    PeerFailure,
    RetryableError,
    TerminalError,
    TrainerError,
    failure_of,
)

CLASSES = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TrainerError)
           and one not in (TrainerError, TerminalError, RetryableError)]


@pytest.mark.parametrize("error", CLASSES)
def test_an_exception_is_retryable_if_its_failure_class_is(error):
    entry = failure_class(error.outcome)
    assert entry is not None
    assert error.exit_code == entry.exit_code
    assert issubclass(error, RetryableError) is (entry.retry is not Retry.NEVER)
    assert issubclass(error, TerminalError) is (entry.retry is Retry.NEVER)


def test_every_exit_code_of_a_failure_has_an_exception():
    codes = {code for code in ExitCode if failure_class_of_exit_code(code)}
    assert codes == {error.exit_code for error in CLASSES}


def test_an_exception_without_an_exit_code_is_refused():
    with pytest.raises(TypeError, match="QualityGate has no exit code"):
        type("Gate", (TrainerError,), {}, outcome=Outcome.QUALITY_GATE)


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(("error", "code", "message"), [
    (BadData("row 3 is empty"), ExitCode.BAD_DATA, "row 3 is empty"),
    (PeerFailure("rank 1 is gone"), ExitCode.INTERNAL, "rank 1 is gone"),
    (OutOfMemory("too small"), ExitCode.OUT_OF_MEMORY, "too small"),
    (OutOfMemoryError("CUDA"), ExitCode.OUT_OF_MEMORY, "the accelerator's memory is too small: set "
     "method.quantization: nf4, lower training.maxLength, or choose a larger compute.accelerator (more)"),
    (OSError(28, "No space left on device", "/out/x"), ExitCode.INTERNAL,
     "the operating system refused: No space left on device (/out/x)"),
    (KeyError("phi9"), ExitCode.INTERNAL, "an unexpected error: KeyError: 'phi9' is not known (more)"),
    (ValueError("what follows:\n\n the cause\nand more"), ExitCode.INTERNAL,
     "an unexpected error: ValueError: what follows: the cause (more)"),
    (ValueError(), ExitCode.INTERNAL, "an unexpected error: ValueError: ValueError (more)"),
])
def test_a_process_ends_with_the_code_and_the_message_of_an_exception(error, code, message):
    failure = failure_of(error, " (more)")
    assert (failure.exit_code, failure.message) == (code, message)
