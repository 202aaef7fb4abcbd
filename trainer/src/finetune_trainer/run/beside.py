"""What is done beside training, and never costs what was learnt: where it fails, that is said in the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_trainer.errors import StopRequested, failure_of
from finetune_trainer.hardware.memory import give_back


class Beside:
    """What could not be done, in sentences.

    Attributes:
        missing: these sentences.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        """
        Args:
            tell: told each of them.
        """
        self.missing: list[str] = []
        self._tell = tell

    def add(self, sentence: str) -> None:
        """Say that something could not be done."""
        self.missing.append(sentence)
        self._tell(f"warning: {sentence}")

    @contextmanager
    def optional(self, what: str) -> Iterator[None]:
        """Do something that may fail: what follows is done all the same.

        Args:
            what: what is missing then.

        Raises:
            StopRequested: it was asked to stop meanwhile.
        """
        try:
            yield
        except StopRequested:
            raise
        except Exception as error:
            self.add(f"{what} could not be made: {failure_of(error).message}")
            # The tensors of what failed hang on the exception's frames until these are gone.
            error.__traceback__ = None
            give_back()
