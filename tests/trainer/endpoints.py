"""An OpenAI-compatible endpoint on loopback, which stands for GPT-4: it can't be reached from a test."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def said(content, finish="stop"):
    """The body of a whole answer."""
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": finish}]}).encode()


@contextmanager
def endpoint(answer):
    """An endpoint that answers as a test wants it to.

    Args:
        answer: gets the body of a request and the number of earlier ones; gives status, content and headers, or does
            what it likes with the handler and gives None.

    Yields:
        Its address, and the bodies and headers of what it was asked.
    """
    asked, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(asked)
                asked.append((self.path, self.headers["Authorization"], body))
            found = answer(body, number, self)
            if found is None:
                return
            status, content, *headers = found
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format, *args):
            pass

        def handle(self):
            with suppress(OSError):  # Whoever asked has gone.
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
