"""Hearing a request to stop, and acting on it where nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from finetune_trainer.errors import StopRequested


class StopFlag:
    """Set by a signal, checked between micro-batches, at every generated token, and between stages."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._why = ""

    def set(self, why: str) -> None:
        """Ask to stop."""
        self._why = why
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise where somebody asked.

        Raises:
            StopRequested: with who asked.
        """
        if self.is_set:
            raise StopRequested(f"stopped by {self._why}")

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as requests; a second one ends the process as it would without us."""

        def heard(number: int, frame: FrameType | None) -> None:
            self.set(signal.Signals(number).name)
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, heard)
