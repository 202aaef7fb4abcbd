"""The handlers of kopf's watches: each records the object and adds its job to the queue, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kopf

from finetune_operator.cluster.apiserver.decoding import RawObject
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.watch.kinds import WATCHED, WatchedKind
from finetune_operator.cluster.watch.session import log_in_to_watch


def registry(cache: Cache, queue: WorkQueue[Key], kinds: Iterable[WatchedKind] = WATCHED) -> kopf.OperatorRegistry:
    """kopf's registry with the handlers."""
    handlers = kopf.OperatorRegistry()

    def record(raw: RawObject, deleted: bool = False) -> None:
        key = cache.record(raw, deleted=deleted)
        if key is not None:
            queue.add(key)

    async def take(event: Any, **_: Any) -> None:  # Asynchronous: kopf runs plain functions in threads.
        record(dict(event["object"]), deleted=event["type"] == "DELETED")

    for watched in kinds:
        kopf.on.event(*watched.resource, id=f"record-{watched.plural}", registry=handlers)(take)

    @kopf.on.login(registry=handlers)
    async def login(**kopf_arguments: Any) -> Any:
        return log_in_to_watch(record, **kopf_arguments)

    return handlers
