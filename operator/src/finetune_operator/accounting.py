"""What a job's attempts took: costs and retries. Derived, never incremented. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.messages import Outcome
from finetune_api.status import Attempt, Cost, FineTuneJobStatus, Retries

from finetune_operator.verdicts import OVERDUE, PREEMPTED, Answer, Verdict

KEPT_ATTEMPTS = 10
FREE_RETRIES = 10
_LONGEST_DELAY = timedelta(minutes=10)
_FRACTION = Decimal("0.0001")
_AT_ONCE = {Outcome.STOPPED, Outcome.OUT_OF_MEMORY, PREEMPTED, OVERDUE}


def spent(status: FineTuneJobStatus, accelerators: int, until: datetime | None) -> Decimal:
    """What the listed attempts and those before them cost; running ones are counted up to `until`."""
    if status.cost is None:
        return Decimal(0)
    total = status.cost.earlier or Decimal(0)
    for attempt in status.attempts:
        end = attempt.end_time or max(until or attempt.start_time, attempt.start_time)
        total += money(end - attempt.start_time, status.cost.hourly_rate * accelerators)
    return total.quantize(_FRACTION)


def money(time: timedelta, hourly_rate: Decimal) -> Decimal:
    """What a time costs."""
    return hourly_rate * Decimal(time.total_seconds()) / 3600


def run_time(status: FineTuneJobStatus) -> timedelta:
    """How long all ended attempts held their nodes, together."""
    earlier = timedelta(seconds=status.cost.earlier_seconds or 0) if status.cost else timedelta()
    return _listed_time(status.attempts) + earlier


def _listed_time(attempts: Sequence[Attempt]) -> timedelta:
    return sum((attempt.end_time - attempt.start_time for attempt in attempts if attempt.end_time), timedelta())


def shorten(status: FineTuneJobStatus, accelerators: int) -> FineTuneJobStatus:
    """The status with its last ten attempts; what the others took is kept in `cost`."""
    surplus = status.attempts[:-KEPT_ATTEMPTS]
    if not surplus or status.cost is None:
        return status
    earlier = spent(status.model_copy(update={"attempts": surplus}), accelerators, None)
    seconds = (status.cost.earlier_seconds or 0) + int(_listed_time(surplus).total_seconds())
    cost: Cost = status.cost.model_copy(update={"earlier": earlier, "earlier_seconds": seconds})
    return status.model_copy(update={"attempts": status.attempts[-KEPT_ATTEMPTS:], "cost": cost})


def count(retries: Retries, verdict: Verdict, deleted: bool) -> Retries:
    """The retries after one more ending. An attempt that was deleted (suspended) counts for nothing."""
    if deleted:
        return retries
    if verdict.answer is Answer.RETRY_COUNTED:
        return retries.model_copy(update={"counted": retries.counted + 1})
    if verdict.answer is Answer.RETRY_FREE:
        result = verdict.result
        newer = result is not None and result.checkpoint_step > result.resumed_from_step
        return retries.model_copy(update={"without_progress": 0 if newer else retries.without_progress + 1})
    return retries


def retry_at(last: Attempt | None, retries: Retries, delay: timedelta) -> datetime | None:
    """When the next attempt may start; None for at once."""
    if last is None or last.end_time is None or last.reason in _AT_ONCE or not retries.counted:
        return None
    return last.end_time + backoff(retries.counted, delay)


def backoff(failures: int, delay: timedelta) -> timedelta:
    """The wait after so many counted endings: doubled with each one, ten minutes at most."""
    # Past ten doublings every delay is at its longest.
    factor: int = 2 ** min(max(failures - 1, 0), 10)
    return min(delay * factor, _LONGEST_DELAY)
