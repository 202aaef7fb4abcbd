"""Requests to stop: signals set a flag, and the run checks it where nothing is half done."""

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
        """Whether the run was asked to stop."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise if the run was asked to stop.

        Raises:
            StopRequested: the message names the signal.
        """
        if self.is_set:
            raise StopRequested(f"stopped by {self._why}")

    def listen(self) -> None:
        """Treat SIGTERM and SIGINT as requests to stop. The second one ends the process at once."""

        def heard(number: int, frame: FrameType | None) -> None:
            self.set(signal.Signals(number).name)
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, heard)
