"""Whether the operator's event loop turns. `/healthz` says it, beside `/metrics`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from finetune_api.bounded_server import Bounded
from prometheus_client import CollectorRegistry, make_wsgi_app

_StartResponse = Callable[[str, list[tuple[str, str]]], Any]
"""WSGI's `start_response`, called with the status line and the headers."""

BEAT_INTERVAL = 2.0
"""Seconds between two beats of the event loop."""

TIMEOUT = 30.0
"""Seconds without a beat after which the operator counts as stuck."""


class Heartbeat:
    """Records that the event loop turns. The server reads it in its own thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_INTERVAL)

    def beat(self) -> None:
        """Record a turn of the event loop."""
        self._last = self._clock()

    def alive(self) -> bool:
        """Whether the event loop turned within the last `TIMEOUT` seconds."""
        return self._clock() - self._last < TIMEOUT

    def serve(self, registry: CollectorRegistry, port: int, address: str = "0.0.0.0") -> WSGIServer:
        """Serve `/healthz` and `/metrics` in threads of their own.

        Args:
            registry: the metrics.
            port: to listen at; 0 for any free port.
            address: of the interface to listen at.
        """
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/healthz":
                exposition: Iterable[bytes] = metrics(environ, start_response)
                return exposition
            alive = self.alive()
            start_response("200 OK" if alive else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the event loop turns\n" if alive else b"the event loop is stuck\n"]

        server = make_server(address, port, app, _Server, _Handler)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server


class _Server(Bounded, WSGIServer):
    """Serves the operator's metrics."""

    most_seconds = 60.0  # The exposition of many thousand jobs is large.


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log no line for each scrape."""
