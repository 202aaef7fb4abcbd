"""Whether the operator lives: its event loop turns. `/healthz` tells it, beside `/metrics`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from finetune_api.bounded_server import Bounded
from prometheus_client import CollectorRegistry, make_wsgi_app

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

    def serve(self, registry: CollectorRegistry, port: int, address: str = "0.0.0.0") -> WSGIServer:
        """Answer `/healthz`, and `/metrics` beside it, in threads of their own.

        Args:
            registry: the metrics.
            port: where; 0 for any.
            address: of which interface.
        """
        behind = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start: Answer) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/healthz":
                told: Iterable[bytes] = behind(environ, start)
                return told
            alive = self.alive()
            start("200 OK" if alive else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the event loop turns\n" if alive else b"the event loop is stuck\n"]

        server = make_server(address, port, app, _Server, _Handler)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server


class _Server(Bounded, WSGIServer):
    """Serves the operator's metrics."""

    most_seconds = 60.0  # Of many thousands of jobs there is much to tell.


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass  # Every scrape would be a line.
