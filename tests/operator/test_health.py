"""`/healthz`: an operator whose loop is stuck does not look alive."""

from __future__ import annotations

import socket
import threading

import httpx
from finetune_api.bounded_server import MOST_CONNECTIONS
from finetune_operator.telemetry.health import TIMEOUT, Heartbeat
from prometheus_client import CollectorRegistry

from tests.cluster.waiting import wait_for
from tests.operator.operators import Operator


def test_a_stuck_loop_is_told_and_metrics_are_still_served():
    now = [0.0]
    heartbeat = Heartbeat(lambda: now[0])
    server = heartbeat.serve(CollectorRegistry(), 0, "127.0.0.1")
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
        now[0] = TIMEOUT + 1
        stuck = httpx.get(f"{address}/healthz", trust_env=False)
        assert (stuck.status_code, stuck.text) == (503, "the event loop is stuck\n")
        assert httpx.get(f"{address}/metrics", trust_env=False).status_code == 200
        heartbeat.beat()
        assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
    finally:
        server.shutdown()
        server.server_close()


def test_idle_connections_keep_few_threads_and_nobody_from_reading():
    server = Heartbeat().serve(CollectorRegistry(), 0, "127.0.0.1")
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(100)]
    try:
        assert httpx.get(f"http://127.0.0.1:{server.server_port}/healthz", trust_env=False).status_code == 200
        assert threading.active_count() - before < 2 * MOST_CONNECTIONS
    finally:
        for connection in idle:
            connection.close()
        server.shutdown()
        server.server_close()


def test_a_replica_that_stands_by_is_alive_and_does_not_lead(control_plane, namespace):
    first = Operator(control_plane, namespace, lease=f"{namespace}/lead", identity="first")
    second = Operator(control_plane, namespace, lease=f"{namespace}/lead", identity="second")
    try:
        leads = ("finetune_operator_leader", frozenset())
        wait_for(lambda: sorted(one.metrics()[leads] for one in (first, second)) == [0.0, 1.0], "one of them to lead")
        for one in (first, second):
            assert one.get("/healthz").status_code == 200
    finally:
        first.stop()
        second.stop()
