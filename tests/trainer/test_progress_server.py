"""`/progress` and `/metrics` while others hold connections to them."""

import json
import socket
import threading
import urllib.request
from decimal import Decimal

import pytest
from finetune_api.bounded_server import MOST_CONNECTIONS, Bounded
from finetune_api.values.money import Price
from finetune_trainer.clock import SystemClock
from finetune_trainer.progress.server import Metrics, ProgressServer
from finetune_trainer.progress.state import RunState


@pytest.fixture
def server():
    state = RunState(SystemClock(), Price(Decimal(0), "USD"), None, None)
    with ProgressServer(state, Metrics("team", "job"), "127.0.0.1", 0) as running:
        yield running


def _ask(server, path="/progress"):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
        return answer.read()


def test_idle_connections_keep_few_threads_and_nobody_from_reading(server):
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    try:
        for _ in range(3):
            assert json.loads(_ask(server))["stage"] == "loading"
        assert b"finetune_trainer" in _ask(server, "/metrics")
        # Those that were ended may not have left yet.
        assert threading.active_count() - before < 2 * MOST_CONNECTIONS
    finally:
        for connection in idle:
            connection.close()


def test_a_connection_that_drips_is_ended(server, monkeypatch):
    monkeypatch.setattr(Bounded, "most_seconds", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /progress HTTP/1.1\r\nX: ")
        assert connection.recv(100) == b""


def test_many_who_read_are_all_answered(server):
    answers = []
    readers = [threading.Thread(target=lambda: answers.append(_ask(server))) for _ in range(12)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(answers) == 12
