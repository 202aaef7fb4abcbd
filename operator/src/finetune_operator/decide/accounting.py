"""What a job's attempts took: costs and retries. Derived, never incremented. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.failures import Delay, failure_class
from finetune_api.money import cost_of, rounded_amount
from finetune_api.status import Attempt, Cost, FineTuneJobStatus, Retries

from finetune_operator.decide.failure import UNSTARTED, Answer, Verdict

KEPT_ATTEMPTS = 10
FREE_RETRIES = 10
_LONGEST_DELAY = timedelta(minutes=10)
_LONGEST_DELAY_UNSTARTED = timedelta(hours=1)
"""An attempt that never starts may hold its node for ten minutes: most of the time it must not."""
AVOIDED = timedelta(minutes=5)
"""How long the attempts that follow keep away from a node that refused one, from when the next may be made."""
_LONGEST_SECONDS = 10**10


def spent(status: FineTuneJobStatus, accelerators: int, until: datetime | None) -> Decimal:
    """What the listed attempts and those before them cost; running ones are counted up to `until`."""
    if status.cost is None:
        return Decimal(0)
    held = sum((_held(attempt, until) for attempt in status.attempts), timedelta())
    return rounded_amount((status.cost.earlier or Decimal(0)) + cost_of(held, status.cost.price(accelerators)))


def _held(attempt: Attempt, until: datetime | None = None) -> timedelta:
    """How long an attempt held its nodes, up to `until` where it still runs. A node's clock may be behind others'."""
    end = attempt.end_time or until or attempt.start_time
    return max(end - attempt.start_time, timedelta())


def run_time(status: FineTuneJobStatus) -> timedelta:
    """How long all ended attempts held their nodes, together."""
    seconds = (status.cost.earlier_seconds or 0) if status.cost else 0
    # As long as a time can be reckoned with: whoever may write a status may write any number.
    earlier = timedelta(seconds=min(max(seconds, 0), _LONGEST_SECONDS))
    return _listed_time(status.attempts) + earlier


def _listed_time(attempts: Sequence[Attempt]) -> timedelta:
    return sum((_held(attempt) for attempt in attempts if attempt.end_time), timedelta())


def shorten(status: FineTuneJobStatus, accelerators: int) -> FineTuneJobStatus:
    """The status with its last ten attempts; what the others took is kept in `cost`."""
    surplus = status.attempts[:-KEPT_ATTEMPTS]
    if not surplus or status.cost is None:
        return status
    earlier = spent(status.model_copy(update={"attempts": surplus}), accelerators, None)
    seconds = (status.cost.earlier_seconds or 0) + int(_listed_time(surplus).total_seconds())
    cost: Cost = status.cost.model_copy(update={"earlier": earlier, "earlier_seconds": seconds})
    return status.model_copy(update={"attempts": status.attempts[-KEPT_ATTEMPTS:], "cost": cost})


def count(retries: Retries, verdict: Verdict, newer: bool = False) -> Retries:
    """The retries after one more ending.

    Args:
        retries: those before.
        verdict: what the ending means.
        newer: whether the attempt brought a newer checkpoint: what follows is another stretch of work.
    """
    if verdict.answer is Answer.RETRY_ELSEWHERE:
        return retries.model_copy(update={"unstarted": retries.unstarted + 1})
    before = Retries() if newer else retries.model_copy(update={"unstarted": 0})
    if verdict.answer is Answer.RETRY_COUNTED:
        return before.model_copy(update={"counted": before.counted + 1})
    if verdict.answer is Answer.RETRY_FREE and not newer:
        return before.model_copy(update={"without_progress": before.without_progress + 1})
    return before


def retry_at(last: Attempt | None, retries: Retries, delay: timedelta) -> datetime | None:
    """When the next attempt may start; None for at once."""
    if last is None or last.end_time is None:
        return None
    failure = failure_class(last.reason)
    wait = failure.delay if failure else Delay.DOUBLING
    if wait is Delay.DOUBLING_TO_AN_HOUR:
        return last.end_time + backoff(retries.unstarted, delay, _LONGEST_DELAY_UNSTARTED)
    return None if wait is Delay.NONE or not retries.counted else last.end_time + backoff(retries.counted, delay)


def avoided(status: FineTuneJobStatus, delay: timedelta, now: datetime) -> dict[str, datetime]:
    """The nodes that an attempt made now has to keep away from, and until when: they did not start one.

    Not for good: where there is no other, the attempt waits for nothing.
    """
    wait = backoff(status.retries.unstarted if status.retries else 0, delay, _LONGEST_DELAY_UNSTARTED) + AVOIDED
    until = {one.node: one.end_time + wait for one in status.attempts
             if one.node and one.end_time and one.reason in UNSTARTED}
    return {node: end for node, end in sorted(until.items()) if now < end}


def backoff(failures: int, delay: timedelta, longest: timedelta = _LONGEST_DELAY) -> timedelta:
    """The wait after so many endings: doubled with each one, up to the longest."""
    # Past ten doublings every delay is at its longest.
    factor: int = 2 ** min(max(failures - 1, 0), 10)
    return min(delay * factor, longest)
