"""kopf's watches: each handler notes the object and puts its job's key into the queue, nothing else."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf
from finetune_api.base import GROUP, VERSION
from finetune_api.generate import PLURAL
from finetune_api.spec.job import KIND

from finetune_operator.cluster.cache import Cache, Key, key_of
from finetune_operator.cluster.client import PAGE, Client, list_path
from finetune_operator.cluster.decoding import Object, readable
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.watch_session import log_in_to_watch
from finetune_operator.names import SELECTOR

SERVER_TIMEOUT = 290
"""Seconds after which the apiserver ends a watch, so that a connection never grows old."""

INACTIVITY_TIMEOUT = 70.0
"""Seconds without even a bookmark after which a watch counts as dead."""

SWEEP_INTERVAL = 600.0
PORTION = 200
"""Jobs that a sweep looks at without letting anything else happen."""

WATCHED = (
    (f"{GROUP}/{VERSION}", KIND, PLURAL, ""),
    ("batch/v1", "Job", "jobs", SELECTOR),
    ("v1", "Pod", "pods", SELECTOR),
    ("v1", "ConfigMap", "configmaps", SELECTOR),
    ("v1", "Service", "services", SELECTOR),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", SELECTOR),
)
"""API version, kind, plural and label selector of everything that is watched."""


def registry(cache: Cache, queue: WorkQueue[Key]) -> kopf.OperatorRegistry:
    """The handlers."""
    handlers = kopf.OperatorRegistry()

    def note(raw: Object, deleted: bool = False) -> None:
        key = cache.note(raw, deleted=deleted)
        if key is not None:
            queue.add(key)

    async def take(event: Any, **_: Any) -> None:  # In the loop: kopf runs plain functions in threads.
        note(dict(event["object"]), deleted=event["type"] == "DELETED")

    for api_version, _, plural, _ in WATCHED:
        group, _, version = api_version.rpartition("/")
        kopf.on.event(group, version, plural, id=f"note-{plural}", registry=handlers)(take)

    @kopf.on.login(registry=handlers)
    async def login(**known: Any) -> Any:
        return log_in_to_watch(note, **known)

    return handlers


class _NoDiffs(kopf.DiffBaseStorage):
    """Nothing to compare objects with: kopf copies every object three times for it, most of the operator's CPU time."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Nothing to remember of handlers: event handlers have no retries, and ours leave no traces in objects."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def watch_settings() -> kopf.OperatorSettings:
    """kopf's settings: only watches, by our label, which never stay silent for long."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.scanning.disabled = True  # Else kopf wants to read every namespace and CustomResourceDefinition.
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = SERVER_TIMEOUT + 30
    settings.watching.inactivity_timeout = INACTIVITY_TIMEOUT
    settings.watching.chunk_size = PAGE
    for api_version, _, plural, selector in WATCHED:
        if selector:
            group, _, version = api_version.rpartition("/")
            settings.watching.label_selectors[group, version, plural] = selector
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings


async def sweep(cache: Cache, queue: WorkQueue[Key], client: Client, namespaces: tuple[str, ...]) -> None:
    """List everything: what the cache does not have yet is noted, and what no longer exists is dropped.

    Every job that anything may be left to do about is looked at again, also without news: nothing is missed for long.
    Watches go on meanwhile, and so does everything else: between two pages of a list, and between portions of jobs.

    Raises:
        ApiError: a list was refused.
    """
    cache.begin_sweep()
    changed: set[Key] = set()
    for api_version, kind, _, selector in WATCHED:
        for namespace in namespaces or (None,):
            uids: set[str] = set()

            def take(raw: dict[str, Any], uids: set[str] = uids) -> None:
                if (short := readable(raw)) is None:
                    return
                uids.add(short["metadata"]["uid"])
                if cache.note(short) and (key := key_of(short)):
                    changed.add(key)

            version = await client.list_into(list_path(api_version, kind, namespace), selector, take)
            changed.update(cache.keep_only(kind, uids, version, namespace))
    for count, key in enumerate({*changed, *(key for key, _ in cache.jobs())}, start=1):
        if not cache.is_settled(key):
            queue.add(key)
        if count % PORTION == 0:
            await asyncio.sleep(0)
