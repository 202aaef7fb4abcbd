"""Whether the operator lives: its event loop turns. `/healthz` tells it, beside `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

Answer = Callable[[str, list[tuple[str, str]]], Any]
BEAT = 2.0
PATIENCE = 30.0
"""Seconds without a turn of the loop after which the operator counts as stuck."""


class Heartbeat:
    """Notes that the loop turns; read by the server, which answers in a thread of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT)

    def beat(self) -> None:
        """The loop has turned."""
        self._last = self._clock()

    def alive(self) -> bool:
        """Whether it turned a short while ago."""
        return self._clock() - self._last < PATIENCE

    def serve_beside(self, server: WSGIServer) -> None:
        """Answer `/healthz` in front of what a server has."""
        behind = server.get_app()
        assert behind is not None

        def app(environ: dict[str, Any], start: Answer) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/healthz":
                return behind(environ, start)  # type: ignore[arg-type]
            alive = self.alive()
            start("200 OK" if alive else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the event loop turns\n" if alive else b"the event loop is stuck\n"]

        server.set_app(app)
