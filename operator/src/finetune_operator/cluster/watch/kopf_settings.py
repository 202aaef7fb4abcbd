"""kopf's settings: it only watches, by our label, and no watch stays silent for long."""

from __future__ import annotations

import logging
from typing import Any

import kopf

from finetune_operator.cluster.apiserver.client import PAGE
from finetune_operator.cluster.watch.kinds import WATCHED

SERVER_TIMEOUT = 290
"""Seconds after which the apiserver ends a watch, so that no connection grows old."""

INACTIVITY_TIMEOUT = 70.0
"""Seconds without even a bookmark after which a watch counts as dead."""


class _NoDiffs(kopf.DiffBaseStorage):
    """Stores nothing to compare objects with. kopf would copy each object three times: most of the CPU time."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Stores nothing about handlers: event handlers have no retries, and ours leave no traces in objects."""

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
    """kopf's settings for this operator."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.scanning.disabled = True  # Otherwise kopf reads every namespace and CustomResourceDefinition.
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = SERVER_TIMEOUT + 30
    settings.watching.inactivity_timeout = INACTIVITY_TIMEOUT
    settings.watching.chunk_size = PAGE
    for watched in WATCHED:
        if watched.selector:
            settings.watching.label_selectors[watched.resource] = watched.selector
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings
