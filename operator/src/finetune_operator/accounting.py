"""What a job's attempts took: their records, costs and retries. Derived, never incremented. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome, ProgressMessage, Result
from finetune_api.status import Attempt, Cost, FineTuneJobStatus, Retries

from finetune_operator.verdicts import OVERDUE, PREEMPTED, Answer, Verdict
from finetune_operator.views import AttemptView

KEPT_ATTEMPTS = 10
FREE_RETRIES = 10
RUNNING = "Running"
JOB_DELETED = "JobDeleted"
_LONGEST_DELAY = timedelta(minutes=10)
_FRACTION = Decimal("0.0001")
LOST_AFTER = timedelta(minutes=5)
"""How long after it should be gone a pod counts as lost: its node is silent, and may stay so for ever."""

_AT_ONCE = {Outcome.STOPPED, Outcome.OUT_OF_MEMORY, PREEMPTED, OVERDUE}


def scheduled_at(attempt: AttemptView) -> datetime | None:
    """When an attempt got its first node: from then on it costs."""
    return min((pod.scheduled_at for pod in attempt.pods if pod.scheduled_at), default=None)


def ended_at(attempt: AttemptView, now: datetime, had_node: bool = False) -> datetime | None:
    """When nothing of an attempt ran any more; None while something does, or may.

    Args:
        attempt: what is observed.
        now: the time.
        had_node: whether it is known to have had one, also where its pods are not there any more.
    """
    finished = [pod.finished_at for pod in attempt.pods if pod.finished_at]
    if attempt.finished:
        return max(finished, default=attempt.finished_at)
    lost = [pod.leaving_at for pod in attempt.pods
            if not pod.finished_at and not pod.gone and pod.leaving_at and now - pod.leaving_at >= LOST_AFTER]
    gone = [pod for pod in attempt.pods if pod.gone and not pod.finished_at]
    if attempt.suspended:
        # Preempted: what its Job makes next would be another run. Pods that all ended well make it Complete instead.
        well = attempt.pods and all(pod.exit_code == ExitCode.OK for pod in attempt.pods)
        over = len(finished) + len(lost) + len(gone) >= len(attempt.pods)
        return max(finished + lost, default=attempt.suspended_at) if (
            over and not well and (had_node or scheduled_at(attempt))) else None
    if (attempt.deleting or lost) and len(finished) + len(lost) == len(attempt.pods):
        return max(finished + lost, default=None)
    return None


def record(attempt: AttemptView, earlier: Attempt | None, before: Attempt | None, said: Result | ProgressMessage | None,
           step: int | None, verdict: Verdict | None, end: datetime | None) -> Attempt | None:
    """An attempt's record as it is now; None for one that has no node yet.

    Args:
        attempt: what is observed.
        earlier: its record so far.
        before: the record of the attempt before it.
        said: what the trainer said last.
        step: the step that it was at then.
        verdict: what its end means, once it has ended.
        end: when that was, where it is known.
    """
    start = earlier.start_time if earlier else scheduled_at(attempt)
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
