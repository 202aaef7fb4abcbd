"""Uploads in the background of the training loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

_PENDING = 2


class BackgroundUploader:
    """A thread that runs jobs in order. After a failure it drops the remaining jobs; the loop gets the exception."""

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
        """Queue a job. Waits while two jobs are queued: slow storage slows the loop down instead of filling the disk.

        Raises:
            TrainerError: the failure of an earlier job.
        """
        self.raise_failure()
        self._jobs.put(job)

    def raise_failure(self) -> None:
        """Raise the failure of a job, if one failed."""
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Wait until every queued job is done.

        Raises:
            TrainerError: the failure of a job.
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
