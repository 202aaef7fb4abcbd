"""The work queue: each key waits at most once and is in work at most once, with delays and back-off per key."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY = 0.2
"""Seconds until a key comes again after its first failure. The delay doubles with each further failure."""

LONGEST_DELAY = 60.0
"""Seconds at most."""

_MOST_DOUBLINGS = 16


class WorkQueue(Generic[K]):
    """Keys to be worked on. A key that is added while it is in work comes again afterwards.

    Attributes:
        added_at: for each waiting key, the event loop's time at which it became due, in seconds.
    """

    def __init__(self) -> None:
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._working: set[K] = set()
        self._again: set[K] = set()
        self.added_at: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self.added_at)

    def add(self, key: K) -> None:
        """Work on a key as soon as possible."""
        if key in self._working:
            self._again.add(key)
        elif key not in self.added_at:
            self.added_at[key] = asyncio.get_running_loop().time()
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Work on a key after a delay; an earlier timer of the key stays."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(seconds, 0.0)
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._add_due, key)

    def _add_due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def take(self) -> tuple[K, float]:
        """The next key, and how long it waited, in seconds."""
        key = await self._ready.get()
        waited = asyncio.get_running_loop().time() - self.added_at.pop(key)
        self._working.add(key)
        return key, waited

    def done(self, key: K, failed: bool = False) -> float:
        """End the work on a key. After a failure the key comes again with back-off.

        Returns:
            The delay of the back-off in seconds; 0 without a failure.
        """
        self._working.discard(key)
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(FIRST_DELAY * 2.0 ** min(count - 1, _MOST_DOUBLINGS), LONGEST_DELAY)
            self._again.discard(key)
            self.add_after(key, delay)
            return delay
        self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        return 0.0

    def forget(self, key: K) -> None:
        """Drop the failures and the timer of a key that no longer exists."""
        self._failures.pop(key, None)
        self._again.discard(key)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
