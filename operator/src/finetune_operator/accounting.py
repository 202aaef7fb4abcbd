"""What a job's attempts took: their records, costs and retries. Derived, never incremented. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.messages import Outcome, ProgressMessage, Result
from finetune_api.status import Attempt, Cost, FineTuneJobStatus, Retries

from finetune_operator.verdicts import Answer, Verdict
from finetune_operator.views import AttemptView

KEPT_ATTEMPTS = 10
FREE_RETRIES = 10
RUNNING = "Running"
JOB_DELETED = "JobDeleted"
_LONGEST_DELAY = timedelta(minutes=10)
_FRACTION = Decimal("0.0001")
_AT_ONCE = {Outcome.STOPPED, Outcome.OUT_OF_MEMORY}


def scheduled_at(attempt: AttemptView) -> datetime | None:
    """When an attempt got its first node: from then on it costs."""
    return min((pod.scheduled_at for pod in attempt.pods if pod.scheduled_at), default=None)


def ended_at(attempt: AttemptView) -> datetime | None:
    """When nothing of an attempt ran any more; None while something does, or may."""
    finished = [pod.finished_at for pod in attempt.pods if pod.finished_at]
    if attempt.finished:
        return max(finished, default=attempt.finished_at)
    if attempt.deleting and len(finished) == len(attempt.pods):
        return max(finished, default=None)
    return None


def record(attempt: AttemptView, earlier: Attempt | None, before: Attempt | None, said: Result | ProgressMessage | None,
           step: int | None, verdict: Verdict | None) -> Attempt | None:
    """An attempt's record as it is now; None for one that has no node yet.

    Args:
        attempt: what is observed.
        earlier: its record so far.
        before: the record of the attempt before it.
        said: what the trainer said last.
        step: the step that it was at then.
        verdict: what its end means, once it has ended.
    """
    start = scheduled_at(attempt) or (earlier.start_time if earlier else None)
    end = ended_at(attempt) if verdict else None
    if start is None and verdict is None:
        return None
    if start is None:  # It never had a node, and cost nothing.
        start = end = end or attempt.created_at
    resumed = said.resumed_from_step if said else (earlier.resumed_from_step if earlier else None)
    last = max(step or 0, (earlier.last_step if earlier else None) or 0) or None
    lost = None
    if resumed is not None and before is not None and before.last_step is not None:
        lost = max(before.last_step - resumed, 0)
    return Attempt(
        number=attempt.number, reason=verdict.reason if verdict else RUNNING, start_time=start,
        end_time=(end or start) if verdict else None, resumed_from_step=resumed, last_step=last,
        lost_steps=lost,
    )


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


def run_time(attempts: Sequence[Attempt]) -> timedelta:
    """How long ended attempts held their nodes, together."""
    return sum((attempt.end_time - attempt.start_time for attempt in attempts if attempt.end_time), timedelta())


def shorten(status: FineTuneJobStatus, accelerators: int) -> FineTuneJobStatus:
    """The status with its last ten attempts; what the others cost is kept in `cost.earlier`."""
    surplus = status.attempts[:-KEPT_ATTEMPTS]
    if not surplus or status.cost is None:
        return status
    earlier = spent(status.model_copy(update={"attempts": surplus}), accelerators, None)
    cost: Cost = status.cost.model_copy(update={"earlier": earlier})
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
