"""The workers: they take jobs from the queue, make a pass over each, and try failed passes again with back-off."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import ClientError

from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.log_fields import log_fields
from finetune_operator.cluster.reconcile.reconciler import Reconciler
from finetune_operator.errors import ApiError, ChildRefused, TerminalError
from finetune_operator.telemetry.metrics import PASS_SECONDS, PASSES, QUEUED, WAIT_SECONDS

_log = logging.getLogger(__name__)


async def run_workers(count: int, cache: Cache, queue: WorkQueue[Key], reconciler: Reconciler) -> None:
    """Run workers until one fails or all are cancelled.

    Args:
        count: how many.
        cache: the state of all objects.
        queue: where the workers take jobs.
        reconciler: makes the passes.

    Raises:
        ExceptionGroup: of a TerminalError.
    """
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_work(cache, queue, reconciler))


async def _work(cache: Cache, queue: WorkQueue[Key], reconciler: Reconciler) -> None:
    """Take jobs until cancelled."""
    while True:
        key, waited = await queue.take()
        # A queue that has keys and a pass without news never wait: let other tasks run in between.
        await asyncio.sleep(0)
        QUEUED.set(len(queue))
        WAIT_SECONDS.observe(waited)
        failed = True
        try:
            failed = not await _pass(key, reconciler)
        finally:
            queue.done(key, failed)
            for waiting in cache.next_checks(key):
                queue.add(waiting)


async def _pass(key: Key, reconciler: Reconciler) -> bool:
    """Make one pass, and count and log how it ended; whether it succeeded.

    Raises:
        TerminalError: the process cannot go on.
    """
    try:
        with PASS_SECONDS.time():
            await reconciler.reconcile(key)
    except TerminalError:
        raise
    except Exception as error:
        _record_failure(key, error)
        return False
    PASSES.labels("ok").inc()
    return True


def _record_failure(key: Key, error: Exception) -> None:
    """Count and log a pass that failed."""
    result, level = judge_failure(error)
    PASSES.labels(result).inc()
    if level == logging.ERROR:
        _log.error("%s/%s: a pass failed; trying again", *key, exc_info=error, extra=log_fields(key))
    else:
        _log.log(level, "%s/%s: %s; trying again", *key, str(error) or type(error).__name__, extra=log_fields(key))


def judge_failure(error: Exception) -> tuple[str, int]:
    """The metric's label and the log level of a pass that failed."""
    if isinstance(error, ApiError):
        return ("conflict", logging.DEBUG) if error.is_conflict else ("error", logging.WARNING)
    if isinstance(error, ChildRefused):
        return "refused", logging.WARNING
    if isinstance(error, (ClientError, OSError, TimeoutError)):
        return "error", logging.WARNING
    return "error", logging.ERROR
