"""Reading the progress of running trainers: asynchronous, bounded, and for display only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import aiohttp
from finetune_api.messages import ProgressMessage

from finetune_operator.cluster.cache import Cache, Key, Polled
from finetune_operator.observed.objects import AttemptView
from finetune_operator.telemetry.metrics import POLLS

_BYTES = 16 * 1024
_SECONDS = 2.0
_AT_ONCE = 32
_log = logging.getLogger(__name__)


class Poller:
    """Asks every running trainer for its progress, and has its job looked at again."""

    def __init__(self, cache: Cache, port: int, interval: float, look_again: Callable[[Key], None],
                 clock: Callable[[], datetime]) -> None:
        self._cache, self._port, self._interval = cache, port, interval
        self._look_again, self._clock = look_again, clock
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Poll until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as http:
            while True:
                asked = [(key, uid, attempt) for key, uid, attempt in self._running()]
                await asyncio.gather(*(self._ask(http, *one) for one in asked))
                await asyncio.sleep(self._interval)

    def _running(self) -> list[tuple[Key, str, AttemptView]]:
        found = []
        for key, raw in self._cache.jobs():
            status = raw.get("status") or {}
            if "startTime" not in status or "completionTime" in status:
                continue
            try:
                attempt = self._cache.newest_attempt(key)
            except Exception as error:  # Its own pass tells.
                _log.debug("%s/%s: its attempts can't be read: %r", *key, error)
                continue
            if attempt and any(pod.running and pod.ip for pod in attempt.pods):
                found.append((key, raw["metadata"]["uid"], attempt))
        return found

    async def _ask(self, http: aiohttp.ClientSession, key: Key, uid: str, attempt: AttemptView) -> None:
        pod = next(pod for pod in attempt.pods if pod.running and pod.ip)
        host = f"[{pod.ip}]" if pod.ip and ":" in pod.ip else pod.ip
        async with self._slots:
            try:
                message: ProgressMessage | None = await _read(http, f"http://{host}:{self._port}/progress")
                POLLS.labels("ok").inc()
            except Exception as error:  # Whatever a pod answers: it is for display, and asked again soon.
                POLLS.labels("failed").inc()
                _log.debug("%s/%s: no progress from %s: %s", *key, pod.name, error,
                           extra={"job": "/".join(key), "attempt": attempt.number})
                last = self._cache.polled.get(uid)
                message = last.message if last and last.attempt == attempt.number else None
        self._cache.polled[uid] = Polled(attempt.number, self._clock(), message)
        self._look_again(key)


async def _read(http: aiohttp.ClientSession, address: str) -> ProgressMessage:
    async with http.get(address, allow_redirects=False) as answer:
        if answer.status != HTTPStatus.OK:
            raise ValueError(f"status {answer.status}")
        content = b""
        async for piece in answer.content.iter_any():
            content += piece
            if len(content) > _BYTES:
                raise ValueError(f"more than {_BYTES} bytes")
    return ProgressMessage.read(content)
