"""What keeps a pod from being made or started, from its events: asked for only where nothing else says it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from aiohttp import ClientError

from finetune_operator.decide.failure import lacks_pod, starts_silently
from finetune_operator.errors import ApiError
from finetune_operator.observed.objects import AttemptView
from finetune_operator.observed.observation import Observation

_LONGEST = 1000
_PREFIX = re.compile(r'^(\(combined from similar events\): )?(Error creating: )?'
                     r'([Pp]ods? "[^"]*" is (forbidden|invalid): )?')
"""It names a pod that is never made, and another one each time: without it the same cause reads the same."""
_log = logging.getLogger(__name__)
_EVERY = timedelta(minutes=1)


class HasEvents(Protocol):
    """Somebody to ask."""

    async def events(self, namespace: str, selector: str) -> list[Any]:
        """The events of a namespace that a field selector has."""


class EventReader:
    """Asks for events, about the same thing once a minute at most: a job that waits while others of it run has many
    passes.
    """

    def __init__(self, apiserver: HasEvents) -> None:
        self._apiserver = apiserver
        self._known: dict[str, tuple[datetime, Any]] = {}

    async def newest(self, namespace: str, selector: str, now: datetime) -> Any:
        """The newest event of some; None where there is none."""
        self._known = {key: known for key, known in self._known.items() if now - known[0] < _EVERY}
        if selector not in self._known:
            newest = max(await self._apiserver.events(namespace, selector), key=_when, default=None)
            self._known[selector] = now, newest
        return self._known[selector][1]


async def with_words(seen: Observation, events: EventReader, now: datetime) -> Observation:
    """The same with the words of its controller for a Job without a pod, or of its node for a pod that does not start.

    Args:
        seen: what is observed.
        events: where to ask for them.
        now: the time.
    """
    if seen.job.status.completion_time is not None:
        return seen
    lacking = next(((view, selector) for view in (*seen.attempts, *seen.preflights)
                    if (selector := _selector(view, now))), None)
    if lacking is None:
        return seen
    view, selector = lacking
    try:
        newest = await events.newest(seen.job.namespace, selector, now)
    except (ApiError, ClientError, OSError, TimeoutError) as error:
        _log.debug("the events of the Job %s can't be read: %s", view.name, error)
        return seen
    if newest is None or newest.get("type") != "Warning":  # What went wrong before is over: an image is pulled now.
        return seen
    informed = _informed(view, newest, now)
    return replace(seen, attempts=tuple(informed if one is view else one for one in seen.attempts),
                   preflights=tuple(informed if one is view else one for one in seen.preflights))


def _selector(view: AttemptView, now: datetime) -> str | None:
    """Which events tell what an attempt or a check waits for; None where they need not be asked for."""
    if lacks_pod(view, now):
        return f"involvedObject.kind=Job,involvedObject.uid={view.uid},reason=FailedCreate"
    if view.finished or view.deleting:
        return None
    silent = next((pod.name for pod in view.present if starts_silently(pod, now)), None)
    return f"involvedObject.kind=Pod,involvedObject.name={silent}" if silent else None


def _informed(view: AttemptView, event: Mapping[str, Any], now: datetime) -> AttemptView:
    said = words(event)
    if lacks_pod(view, now):
        return replace(view, no_pod=said or None)
    waiting = (event.get("reason") or "Warning", said)
    return replace(view, pods=tuple(
        replace(pod, waiting=waiting) if starts_silently(pod, now) else pod for pod in view.pods))


def words(event: Mapping[str, Any]) -> str:
    """What an event says, without what changes each time."""
    return _PREFIX.sub("", event.get("message") or "", count=1)[:_LONGEST]


def _when(event: Mapping[str, Any]) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
