"""The parts put together: lead, fill the cache, then watch, work and poll until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kopf
from aiohttp import ClientError

from finetune_operator.cluster.cache import Cache, Key
from finetune_operator.cluster.client import Client
from finetune_operator.cluster.lease import Lease
from finetune_operator.cluster.progress import Poller
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile import Reconciler, work_together
from finetune_operator.cluster.watch import SWEEP_INTERVAL, registry, sweep, watch_settings
from finetune_operator.errors import ApiError, WatchLost
from finetune_operator.settings import Settings
from finetune_operator.telemetry import metrics
from finetune_operator.telemetry.health import Heartbeat

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How the operator is started.

    Attributes:
        namespaces: where jobs are served; empty for everywhere.
        metrics_port: port of /metrics; 0 for any, None for none.
        lease: namespace and name of the Lease; None leads without asking.
        identity: this replica's name in the Lease.
    """

    namespaces: tuple[str, ...]
    metrics_port: int | None
    lease: tuple[str, str] | None
    identity: str


def clock() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


async def operate(settings: Settings, options: Options) -> None:
    """Run the operator until it is stopped.

    Raises:
        ExceptionGroup: of LeaseLost (another replica leads now) or WatchLost.
        ApiError: the apiserver refuses what the operator needs.
    """
    client = Client.connect()
    cache, queue, heartbeat = Cache(), WorkQueue[Key](), Heartbeat()
    metrics.REGISTRY.register(metrics.JobCollector(lambda: [raw for _, raw in cache.jobs()]))
    if options.metrics_port is not None:
        server = heartbeat.serve(metrics.REGISTRY, options.metrics_port)
        _log.info("metrics at port %d", server.server_port)
    lease = Lease(client, *options.lease, options.identity, clock) if options.lease else None
    beating = asyncio.create_task(heartbeat.run())
    try:
        with _stopped_by_signals():
            if lease:
                await lease.acquire()
        metrics.LEADER.set(1)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(lease.keep()) if lease else None
            with _stopped_by_signals():
                # Before any decision: a job whose attempts are not listed yet would look as if they had been deleted.
                await sweep(cache, queue, client, options.namespaces)
            await _run(settings, options, client, cache, queue, lease)
            if keeping:
                keeping.cancel()
    finally:
        beating.cancel()
        if lease:
            await lease.release()
        await client.close()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Cancel this task at SIGTERM or SIGINT: before kopf runs nobody listens, and a pod's process 1 ignores them."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in _SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _run(settings: Settings, options: Options, client: Client, cache: Cache, queue: WorkQueue[Key],
               lease: Lease | None) -> None:
    reconciler = Reconciler(cache, queue, client, settings, clock, lease.check if lease else lambda: None)
    poller = Poller(cache, settings.trainer_port, settings.progress_interval.total_seconds(), queue.add, clock)

    async def watch() -> None:
        # It returns at SIGTERM or SIGINT; then everything else ends too.
        await kopf.operator(registry=registry(cache, queue), settings=watch_settings(), standalone=True,
                            clusterwide=not options.namespaces, namespaces=options.namespaces)
        for task in others:
            task.cancel()

    async with asyncio.TaskGroup() as group:
        others = [
            group.create_task(work_together(reconciler, settings.workers)),
            group.create_task(poller.run()),
            group.create_task(_sweep_often(cache, queue, client, options.namespaces)),
            group.create_task(_fail_with_a_watch()),
        ]
        group.create_task(watch())


async def _fail_with_a_watch() -> None:
    """Wait until one of kopf's watches ends with an error, which kopf leaves to the event loop: it would stay silent.

    Raises:
        WatchLost: a watch has ended; a restart begins it again.
    """
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[None] = loop.create_future()

    def look(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        task = context.get("task") or context.get("future")
        if isinstance(task, asyncio.Task) and task.get_name().startswith("watcher for") and not lost.done():
            lost.set_exception(WatchLost(f"the {task.get_name()} ended: {context.get('exception')}"))

    loop.set_exception_handler(look)
    await lost


async def _sweep_often(cache: Cache, queue: WorkQueue[Key], client: Client, namespaces: tuple[str, ...]) -> None:
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        try:
            await sweep(cache, queue, client, namespaces)
        except (ApiError, ClientError, OSError) as error:
            _log.warning("a sweep failed: %s", error or type(error).__name__)
        except Exception:  # The next one may find what this one stumbled over gone; the watches go on meanwhile.
            _log.exception("a sweep failed")
