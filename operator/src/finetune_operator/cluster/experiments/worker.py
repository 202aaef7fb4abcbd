"""The worker: it takes experiments from their queue, and makes a pass over each."""

from __future__ import annotations

import logging

from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.experiments.reconciler import ExperimentReconciler
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.workers import judge_failure
from finetune_operator.errors import TerminalError
from finetune_operator.telemetry.metrics import EXPERIMENT_PASSES

NEWS_DELAY = 0.5
"""Seconds from a change to the pass that sees it. The jobs of an experiment change together, and one pass sees all."""

_log = logging.getLogger(__name__)


async def work_on_experiments(queue: WorkQueue[Key], reconciler: ExperimentReconciler) -> None:
    """Take experiments until cancelled.

    Raises:
        TerminalError: the process cannot go on.
    """
    while True:
        key, _ = await queue.take()
        failed = True
        try:
            failed = not await _pass(key, reconciler)
        finally:
            queue.done(key, failed)


async def _pass(key: Key, reconciler: ExperimentReconciler) -> bool:
    """Make one pass, and count and log how it ended; whether it succeeded."""
    try:
        await reconciler.reconcile(key)
    except TerminalError:
        raise
    except Exception as error:
        result, level = judge_failure(error)
        EXPERIMENT_PASSES.labels(result).inc()
        expected = level != logging.ERROR
        _log.log(level, "experiment %s/%s: %s; trying again", *key, str(error) or type(error).__name__,
                 exc_info=None if expected else error)
        return False
    EXPERIMENT_PASSES.labels("ok").inc()
    return True
