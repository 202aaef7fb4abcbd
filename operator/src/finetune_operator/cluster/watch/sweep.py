"""The sweep: it lists every watched object, so that a change that a watch missed is not missed for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.decoding import RawObject, usable
from finetune_operator.cluster.apiserver.paths import list_path
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key, key_of
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.watch.kinds import WATCHED, WatchedKind

SWEEP_INTERVAL = 600.0
"""Seconds between two sweeps."""

CHUNK = 200
"""Jobs that a sweep goes through before it lets other tasks run."""


async def sweep(cache: Cache, queue: WorkQueue[Key], client: Client, namespaces: tuple[str, ...],
                kinds: Iterable[WatchedKind] = WATCHED) -> None:
    """List every watched object: record new ones, and drop those that no longer exist.

    Then every job that is not settled is added to the queue, even without news. Other tasks, such as the watches, run
    between two pages of a list and between two chunks of jobs.

    Args:
        cache: what is recorded.
        queue: where the jobs are added.
        client: of the apiserver.
        namespaces: which ones to list; empty for all.
        kinds: what to list.

    Raises:
        ApiError: the apiserver refused a list.
    """
    cache.begin_sweep()
    changed: set[Key] = set()
    for watched in kinds:
        for namespace in namespaces or (None,):
            changed |= await _sweep_kind(cache, client, watched, namespace)
    cache.experiments.notify_all()
    for count, key in enumerate({*changed, *(key for key, _ in cache.jobs())}, start=1):
        if not cache.is_settled(key):
            queue.add(key)
        if count % CHUNK == 0:
            await asyncio.sleep(0)


async def _sweep_kind(cache: Cache, client: Client, watched: WatchedKind, namespace: str | None) -> set[Key]:
    """List one kind; the keys of the jobs whose objects changed."""
    uids: set[str] = set()
    changed: set[Key] = set()

    def take(raw: RawObject) -> None:
        if (trimmed := usable(raw)) is None:
            return
        uids.add(trimmed["metadata"]["uid"])
        if cache.record(trimmed) and (key := key_of(trimmed)):
            changed.add(key)

    path = list_path(watched.api_version, watched.kind, namespace)
    version = await client.list_into(path, watched.selector, take)
    changed.update(cache.keep_only(watched.kind, uids, version, namespace))
    return changed
