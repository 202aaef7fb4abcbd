"""Why a pod is not created or does not start, from Events. They are read only if nothing else says it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from aiohttp import ClientError

from finetune_operator.decide.attempts.waiting import lacks_pods, starts_silently
from finetune_operator.errors import ApiError
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.observation import Observation

_LONGEST_MESSAGE = 1000
_PREFIX = re.compile(r'^(\(combined from similar events\): )?(Error creating: )?'
                     r'([Pp]ods? "[^"]*" is (forbidden|invalid): )?')
"""The part that names the pod. Each Event names another pod; without this part the same cause reads the same."""

_INTERVAL = timedelta(minutes=1)
_log = logging.getLogger(__name__)


class EventSource(Protocol):
    """The apiserver, as far as it shows Events."""

    async def events(self, namespace: str, selector: str) -> list[Any]:
        """The Events of a namespace that match a field selector."""


class EventReader:
    """Reads Events, for the same selector at most once a minute: a job that waits may have many passes."""

    def __init__(self, apiserver: EventSource) -> None:
        self._apiserver = apiserver
        self._known: dict[str, tuple[datetime, Any]] = {}

    async def newest(self, namespace: str, selector: str, now: datetime) -> Any:
        """The newest Event that matches a field selector; None if there is none."""
        self._known = {key: known for key, known in self._known.items() if now - known[0] < _INTERVAL}
        if selector not in self._known:
            newest = max(await self._apiserver.events(namespace, selector), key=_time_of, default=None)
            self._known[selector] = now, newest
        return self._known[selector][1]


async def with_event_messages(observation: Observation, events: EventReader, now: datetime) -> Observation:
    """The observation with the reason why a Job has no pod, or why a pod on a node does not start.

    Args:
        observation: of one job.
        events: where Events are read.
        now: the time, in UTC.
    """
    if observation.job.status.completion_time is not None:
        return observation
    waiting = next(((view, selector) for view in (*observation.attempts, *observation.preflights)
                    if (selector := _selector(view, now))), None)
    if waiting is None:
        return observation
    view, selector = waiting
    try:
        newest = await events.newest(observation.job.namespace, selector, now)
    except (ApiError, ClientError, OSError, TimeoutError) as error:
        _log.debug("the Events of the Job %s cannot be read: %s", view.name, error)
        return observation
    if newest is None or newest.get("type") != "Warning":  # An earlier fault is over: the image is being pulled now.
        return observation
    explained = _with_event(view, newest, now)
    return replace(observation, attempts=tuple(explained if one is view else one for one in observation.attempts),
                   preflights=tuple(explained if one is view else one for one in observation.preflights))


def _selector(view: AttemptView, now: datetime) -> str | None:
    """The field selector of Events that explain why an attempt or a check waits; None if none are needed."""
    if lacks_pods(view, now):
        return f"involvedObject.kind=Job,involvedObject.uid={view.uid},reason=FailedCreate"
    if view.finished or view.deleting:
        return None
    silent = next((pod.name for pod in view.present_pods if starts_silently(pod, now)), None)
    return f"involvedObject.kind=Pod,involvedObject.name={silent}" if silent else None


def _with_event(view: AttemptView, event: Mapping[str, Any], now: datetime) -> AttemptView:
    message = message_of(event)
    if lacks_pods(view, now):
        return replace(view, pod_creation_error=message or None)
    waiting = (event.get("reason") or "Warning", message)
    return replace(view, pods=tuple(
        replace(pod, waiting=waiting) if starts_silently(pod, now) else pod for pod in view.pods))


def message_of(event: Mapping[str, Any]) -> str:
    """The message of an Event, without the part that changes each time."""
    return _PREFIX.sub("", event.get("message") or "", count=1)[:_LONGEST_MESSAGE]


def _time_of(event: Mapping[str, Any]) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
