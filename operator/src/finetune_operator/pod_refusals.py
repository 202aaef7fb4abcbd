"""Why no pod of a Job can be made: the words of its controller, asked for only where a pod is missing."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from aiohttp import ClientError

from finetune_operator.client import ApiError
from finetune_operator.observation import Observation
from finetune_operator.verdicts import lacks_pod
from finetune_operator.views import AttemptView

_LONGEST = 1000
_PREFIX = re.compile(r'^(Error creating: )?([Pp]ods? "[^"]*" is (forbidden|invalid): )?')
"""It names a pod that is never made, and another one each time: without it the same cause reads the same."""
_log = logging.getLogger(__name__)


async def with_words(seen: Observation, events_of: Callable[[str, str], Awaitable[list[Any]]], now: datetime
                     ) -> Observation:
    """The same with the words of the controller for each Job that should have a pod and has none.

    Args:
        seen: what is observed.
        events_of: asks for the events FailedCreate of a Job, by its namespace and uid: at most one request for a pass.
        now: the time.
    """
    if seen.job.status.completion_time is not None:
        return seen
    lacking = next((one for one in (*seen.attempts, *seen.preflights) if lacks_pod(one, now)), None)
    if lacking is None:
        return seen
    try:
        told = words(await events_of(seen.job.namespace, lacking.uid))
    except (ApiError, ClientError, OSError, TimeoutError) as error:
        _log.debug("the events of the Job %s can't be read: %s", lacking.name, error)
        return seen

    def informed(views: tuple[AttemptView, ...]) -> tuple[AttemptView, ...]:
        return tuple(replace(one, no_pod=told) if one is lacking else one for one in views)

    return replace(seen, attempts=informed(seen.attempts), preflights=informed(seen.preflights))


def words(events: Iterable[Mapping[str, Any]]) -> str | None:
    """What the newest of a Job's events says; None where there is none."""
    newest = max(events, key=_when, default=None)
    return _PREFIX.sub("", newest.get("message") or "", count=1)[:_LONGEST] or None if newest else None


def _when(event: Mapping[str, Any]) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
