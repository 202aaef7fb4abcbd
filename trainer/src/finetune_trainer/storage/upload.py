"""Uploads beside the training loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

_PENDING = 2


class BackgroundUploader:
    """One thread that runs jobs in order. After a failure the rest is dropped, and the failure is told to the loop."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=_PENDING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)

    def __enter__(self) -> BackgroundUploader:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._jobs.put(None)
        self._thread.join()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; waits while two are queued, so that slow storage slows the loop instead of filling the disk.

        Raises:
            TrainerError: what an earlier job failed with.
        """
        self.raise_failure()
        self._jobs.put(job)

    def raise_failure(self) -> None:
        """Raise what a job failed with, if one did."""
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Wait until every queued job is done.

        Raises:
            TrainerError: what a job failed with.
        """
        self._jobs.join()
        self.raise_failure()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                if self._failure is None:
                    job()
            except BaseException as error:
                self._failure = error
            finally:
                self._jobs.task_done()
