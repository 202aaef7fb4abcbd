"""The operator as a whole: lead, fill the cache, then watch, work and poll until it is stopped."""

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

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.experiments.reconciler import ExperimentReconciler, Queues
from finetune_operator.cluster.experiments.worker import NEWS_DELAY, work_on_experiments
from finetune_operator.cluster.lease import Lease
from finetune_operator.cluster.progress import ProgressPoller
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.reconciler import Reconciler
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.workers import run_workers
from finetune_operator.cluster.watch.handlers import registry
from finetune_operator.cluster.watch.kinds import WatchedKind, served_kinds
from finetune_operator.cluster.watch.kopf_settings import watch_settings
from finetune_operator.cluster.watch.sweep import SWEEP_INTERVAL, sweep
from finetune_operator.errors import ApiError, WatchLost
from finetune_operator.faults import FaultHook, no_fault
from finetune_operator.settings import Settings
from finetune_operator.telemetry import metrics
from finetune_operator.telemetry.experiment_metrics import ExperimentCollector
from finetune_operator.telemetry.health import Heartbeat
from finetune_operator.telemetry.metrics import JobCollector

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How the operator is started.

    Attributes:
        namespaces: whose jobs it serves; empty for all namespaces.
        metrics_port: port of /metrics; 0 for any free port, None for no server.
        lease: namespace and name of the Lease; None leads without a Lease.
        identity: this replica's name in the Lease.
        fault_hook: called at each moment at which a test may kill the process.
    """

    namespaces: tuple[str, ...]
    metrics_port: int | None
    lease: tuple[str, str] | None
    identity: str
    fault_hook: FaultHook = no_fault


@dataclass(frozen=True)
class _Parts:
    """What the operator's tasks share."""

    settings: Settings
    options: Options
    client: Client
    cache: Cache
    queue: WorkQueue[Key]
    experiments: WorkQueue[Key]
    kinds: list[WatchedKind]


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


async def operate(settings: Settings, options: Options) -> None:
    """Run the operator until it is stopped.

    Raises:
        NoCluster: there is no apiserver to connect to.
        ExceptionGroup: of LeaseLost (another replica leads now) or WatchLost.
        ApiError: the apiserver refuses what the operator needs.
    """
    client = Client.connect()
    parts = _Parts(settings, options, client, Cache(), WorkQueue[Key](), WorkQueue[Key](), [])
    parts.cache.experiments.notify = lambda key: parts.experiments.add_after(key, NEWS_DELAY)
    metrics.REGISTRY.register(JobCollector(lambda: [raw for _, raw in parts.cache.jobs()]))
    metrics.REGISTRY.register(ExperimentCollector(parts.cache.experiments.all))
    heartbeat = Heartbeat()
    if options.metrics_port is not None:
        server = heartbeat.serve(metrics.REGISTRY, options.metrics_port)
        _log.info("metrics at port %d", server.server_port)
    lease = Lease(client, *options.lease, options.identity, utc_now) if options.lease else None
    beating = asyncio.create_task(heartbeat.run())
    try:
        with _stopped_by_signals():
            if lease:
                await lease.acquire()
        metrics.LEADER.set(1)
        await _lead(parts, lease)
    finally:
        beating.cancel()
        if lease:
            await lease.release()
        await client.close()


async def _lead(parts: _Parts, lease: Lease | None) -> None:
    """Serve jobs for as long as this replica leads."""
    async with asyncio.TaskGroup() as group:
        renewing = group.create_task(lease.keep()) if lease else None
        with _stopped_by_signals():
            # Before any decision: the attempts of a job that are not listed yet would look deleted.
            parts.kinds.extend(await served_kinds(parts.client, parts.options.namespaces))
            await _sweep(parts)
        await _serve(parts, lease)
        if renewing:
            renewing.cancel()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Cancel this task at SIGTERM or SIGINT. kopf is not running yet, and process 1 of a pod ignores both by default.

    Raises:
        RuntimeError: there is no task to cancel.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise RuntimeError("signals can stop a task only")
    for number in _SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _serve(parts: _Parts, lease: Lease | None) -> None:
    """Watch, work, poll and sweep until a signal, or until one of them fails."""
    settings, cache, queue, namespaces = parts.settings, parts.cache, parts.queue, parts.options.namespaces
    hook = parts.options.fault_hook
    runtime = Runtime(utc_now, lease.check, hook) if lease else Runtime(utc_now, fault_hook=hook)
    reconciler = Reconciler(cache, queue, parts.client, settings, runtime)
    experiments = ExperimentReconciler(cache, Queues(parts.experiments, queue), parts.client, settings, runtime)
    poller = ProgressPoller(cache, settings.trainer_port, settings.progress_interval.total_seconds(), queue.add,
                            utc_now)

    async def watch() -> None:
        # It returns at SIGTERM or SIGINT. Then everything else ends too.
        await kopf.operator(registry=registry(cache, queue, parts.kinds), settings=watch_settings(), standalone=True,
                            clusterwide=not namespaces, namespaces=namespaces)
        for task in others:
            task.cancel()

    async with asyncio.TaskGroup() as group:
        others = [
            group.create_task(run_workers(settings.workers, cache, queue, reconciler)),
            group.create_task(work_on_experiments(parts.experiments, experiments)),
            group.create_task(poller.run()),
            group.create_task(_sweep_regularly(parts)),
            group.create_task(_fail_with_a_watch()),
        ]
        group.create_task(watch())


async def _fail_with_a_watch() -> None:
    """Wait until one of kopf's watches ends with an error. kopf only reports it to the event loop and stays silent.

    Raises:
        WatchLost: a watch has ended; a restart of the process begins it again.
    """
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[None] = loop.create_future()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        task = context.get("task") or context.get("future")
        if isinstance(task, asyncio.Task) and task.get_name().startswith("watcher for") and not lost.done():
            lost.set_exception(WatchLost(f"the {task.get_name()} ended: {context.get('exception')}"))

    loop.set_exception_handler(handle)
    await lost


async def _sweep(parts: _Parts) -> None:
    await sweep(parts.cache, parts.queue, parts.client, parts.options.namespaces, parts.kinds)


async def _sweep_regularly(parts: _Parts) -> None:
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        try:
            await _sweep(parts)
        except (ApiError, ClientError, OSError) as error:
            _log.warning("a sweep failed: %s", error or type(error).__name__)
        except Exception:  # The watches go on, and the next sweep may not meet the cause.
            _log.exception("a sweep failed")
