"""A server of few connections at once, of which none lasts: for what operator and trainer tell over HTTP."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from typing import Any

MOST_CONNECTIONS = 16
MOST_SECONDS = 10.0
"""As long as Prometheus waits for an answer, where nobody has set that."""


class Bounded(socketserver.ThreadingMixIn):
    """A thread for each connection, but few of them: one more ends the oldest, and each ends after some seconds.

    So neither idle connections nor ones that drip keep threads, or keep anybody from reading. To be mixed into a
    `socketserver.TCPServer`.
    """

    daemon_threads = True
    request_queue_size = 64
    most_seconds = MOST_SECONDS
    _lock = threading.Lock()

    @property
    def _since(self) -> dict[Any, float]:
        """When each connection was opened, the oldest first."""
        since: dict[Any, float] = self.__dict__.setdefault("_opened", {})
        return since

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        with self._lock:
            while len(self._since) >= MOST_CONNECTIONS:
                self._end(next(iter(self._since)))
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End what takes too long; called between connections, and with every look for new ones."""
        with self._lock:
            for request in [one for one, since in self._since.items() if time.monotonic() - since > self.most_seconds]:
                self._end(request)

    def _end(self, request: Any) -> None:
        del self._since[request]
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)  # Its thread, which reads or writes, finds the end and closes it.

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)  # type: ignore[misc]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the client has closed the connection."""
