"""What is measured of a training process from inside: resident memory, and when each step ended."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SAMPLE_SECONDS = 0.02


class MemoryPeak:
    """Resident memory of this process, sampled every 20 ms: `loaded` and `peak`, in bytes."""

    def __init__(self) -> None:
        self.loaded = self.peak = 0
        self._done = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note what is loaded now, and the peak until the end."""
        gc.collect()
        # Give back what loading freed, or training would find it for nothing.
        ctypes.CDLL(None).malloc_trim(0)
        self.loaded = self.peak = resident_bytes()
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class StepLog:
    """When each step ended (seconds: monotonic, and of this process' CPU) and its loss; an observer of ours."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.losses: list[float] = []

    def step_ended(self) -> None:
        """Note the time."""
        self.ends.append(time.monotonic())
        self.cpu.append(time.process_time())

    def on_step(self, report: Any, message: Any) -> None:
        """A step of ours is done."""
        self.step_ended()
        self.losses.append(report.loss)

    def on_stage(self, stage: Any) -> None:
        """Nothing."""

    def on_answers(self, answered: int, total: int) -> None:
        """Nothing."""

    def on_note(self, text: str) -> None:
        """Nothing."""
