"""When the next attempt may start, and which nodes it must avoid. Pure.

Whether a retry follows: `retry` of each failure class in finetune_api/failures/failure_classes.py, within the limits of
decide/stages/after_attempt.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.failures import Delay, failure_class
from finetune_api.status import Attempt, FineTuneJobStatus, Retries

_LONGEST_DELAY = timedelta(minutes=10)
_LONGEST_DELAY_UNSTARTED = timedelta(hours=1)
"""An attempt that does not start may hold its node for ten minutes. Most of the time it must not."""

_AVOIDANCE = timedelta(minutes=5)
"""How long attempts avoid a node after the next attempt may start, if one could not run there."""


def next_attempt_at(last: Attempt | None, retries: Retries, retry_delay: timedelta) -> datetime | None:
    """When the next attempt may start; None for at once.

    Args:
        last: the record of the last attempt; None if there is none.
        retries: the counted retries.
        retry_delay: the delay after the first of them, from the settings.
    """
    if last is None or last.end_time is None:
        return None
    delay = _delay_after(last.reason)
    if delay is Delay.DOUBLING_TO_AN_HOUR:
        return last.end_time + backoff(retries.unstarted, retry_delay, _LONGEST_DELAY_UNSTARTED)
    return None if delay is Delay.NONE or not retries.counted else last.end_time + backoff(retries.counted, retry_delay)


def _delay_after(reason: str) -> Delay:
    known = failure_class(reason)
    return known.delay if known else Delay.DOUBLING


def avoided_nodes(status: FineTuneJobStatus, retry_delay: timedelta, now: datetime) -> dict[str, datetime]:
    """The nodes that an attempt created now must avoid because an earlier one could not run there, and until when.

    An attempt that no other node can take waits until this time and is then created again without the restriction.
    """
    wait = backoff(status.retries.unstarted if status.retries else 0, retry_delay, _LONGEST_DELAY_UNSTARTED)
    until = {one.node: one.end_time + wait + _AVOIDANCE for one in status.attempts
             if one.node and one.end_time and _avoids_node(one.reason)}
    return {node: end for node, end in sorted(until.items()) if now < end}


def _avoids_node(reason: str) -> bool:
    known = failure_class(reason)
    return known is not None and known.avoids_node


def backoff(failures: int, retry_delay: timedelta, longest: timedelta = _LONGEST_DELAY) -> timedelta:
    """The delay after so many failures in a row: doubled with each one, at most `longest`."""
    # After ten doublings every delay is longer than `longest`.
    factor: int = 2 ** min(max(failures - 1, 0), 10)
    return min(retry_delay * factor, longest)
