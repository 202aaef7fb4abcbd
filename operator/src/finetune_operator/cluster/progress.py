"""Reading the progress of running trainers: asynchronous, bounded, and for display only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

import aiohttp
from finetune_api.messages import ProgressMessage

from finetune_operator.cluster.cache.cache import Cache, Polled
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.observed.pod import PodView
from finetune_operator.telemetry.metrics import POLLS

_MAX_BYTES = 16 * 1024
_TIMEOUT_SECONDS = 2.0
_MAX_REQUESTS = 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Trainer:
    """A running trainer, and the job and attempt that it works for."""

    key: Key
    uid: str
    attempt: int
    pod: PodView


class ProgressPoller:
    """Asks every running trainer for its progress, and adds its job to the queue."""

    def __init__(self, cache: Cache, port: int, interval: float, requeue: Callable[[Key], None],
                 clock: Callable[[], datetime]) -> None:
        """Set up.

        Args:
            cache: where the running trainers are found and the answers are recorded.
            port: at which trainers serve their progress.
            interval: seconds between two rounds.
            requeue: called with the job of each trainer after its answer.
            clock: the time, in UTC.
        """
        self._cache, self._port, self._interval = cache, port, interval
        self._requeue, self._clock = requeue, clock
        self._slots = asyncio.Semaphore(_MAX_REQUESTS)

    async def run(self) -> None:
        """Poll until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)) as http:
            while True:
                await asyncio.gather(*(self._poll(http, trainer) for trainer in list(self._trainers())))
                await asyncio.sleep(self._interval)

    def _trainers(self) -> Iterator[_Trainer]:
        """One running trainer of each job that has one."""
        for key, raw in self._cache.jobs():
            status = raw.get("status") or {}
            if "startTime" not in status or "completionTime" in status:
                continue
            try:
                attempt = self._cache.newest_attempt(key)
            except Exception as error:  # The job's own pass reports it.
                _log.debug("%s/%s: its attempts cannot be read: %r", *key, error)
                continue
            pod = next((pod for pod in attempt.pods if pod.running and pod.ip), None) if attempt else None
            if attempt and pod:
                yield _Trainer(key, raw["metadata"]["uid"], attempt.number, pod)

    async def _poll(self, http: aiohttp.ClientSession, trainer: _Trainer) -> None:
        ip = trainer.pod.ip or ""
        host = f"[{ip}]" if ":" in ip else ip
        async with self._slots:
            try:
                message: ProgressMessage | None = await _read(http, f"http://{host}:{self._port}/progress")
                POLLS.labels("ok").inc()
            except Exception as error:  # A pod may answer anything. Progress is for display; the next round asks again.
                POLLS.labels("failed").inc()
                _log.debug("%s/%s: no progress from %s: %s", *trainer.key, trainer.pod.name, error,
                           extra={"job": "/".join(trainer.key), "attempt": trainer.attempt})
                last = self._cache.polled.get(trainer.uid)
                message = last.message if last and last.attempt == trainer.attempt else None
        self._cache.polled[trainer.uid] = Polled(trainer.attempt, self._clock(), message)
        self._requeue(trainer.key)


async def _read(http: aiohttp.ClientSession, url: str) -> ProgressMessage:
    async with http.get(url, allow_redirects=False) as answer:
        if answer.status != HTTPStatus.OK:
            raise ValueError(f"status {answer.status}")
        content = b""
        async for piece in answer.content.iter_any():
            content += piece
            if len(content) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES} bytes")
    return ProgressMessage.read(content)
