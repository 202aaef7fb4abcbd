"""Requests to stop: signals, and the end of the launcher, set a flag. The run checks it where nothing is half done."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

from finetune_trainer.errors import StopRequested

LAUNCHER_PIPE = "FINETUNE_LAUNCHER_PIPE"
"""Environment variable with the descriptor of a pipe whose other end only the launcher has: it closes when that ends,
even by SIGKILL."""


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
            StopRequested: the message says what asked.
        """
        if self.is_set:
            raise StopRequested(f"stopped by {self._why}")

    def listen(self) -> None:
        """Treat SIGTERM, SIGINT and the end of the launcher as requests to stop. A second signal ends this process."""

        def heard(number: int, frame: FrameType | None) -> None:
            self.set(signal.Signals(number).name)
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, heard)
        if pipe := os.environ.pop(LAUNCHER_PIPE, None):  # Not for programs that this process starts.
            threading.Thread(target=self._follow, args=(int(pipe),), name="launcher", daemon=True).start()

    def _follow(self, pipe: int) -> None:
        """Wait until the launcher ends."""
        with suppress(OSError):
            os.read(pipe, 1)
        self.set("the end of the process that started it")
