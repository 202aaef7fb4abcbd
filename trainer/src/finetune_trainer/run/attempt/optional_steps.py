"""Steps beside training. A failure of one never costs the trained model: the result names what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_trainer.errors import StopRequested, failure_of
from finetune_trainer.hardware.memory import give_back


class OptionalSteps:
    """Runs steps that may fail, and collects what is missing.

    Attributes:
        missing: a sentence for each step that failed.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        """
        Args:
            note: receives each sentence as a warning.
        """
        self.missing: list[str] = []
        self._note = note

    def add(self, sentence: str) -> None:
        """Add a sentence about something that is missing."""
        self.missing.append(sentence)
        self._note(f"warning: {sentence}")

    @contextmanager
    def optional(self, what: str) -> Iterator[None]:
        """Run a step that may fail; the attempt goes on.

        Args:
            what: what is missing if the step fails.

        Raises:
            StopRequested: the run was asked to stop during the step.
        """
        try:
            yield
        except StopRequested:
            raise
        except Exception as error:
            self.add(f"{what} could not be made: {failure_of(error).message}")
            # The traceback keeps the tensors of the failed step alive.
            error.__traceback__ = None
            give_back()
