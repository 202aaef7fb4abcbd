"""The attempts' records in the status: when each began and ended, how far it came, and what its end means. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import ProgressMessage, Result
from finetune_api.status import Attempt, FineTuneJobStatus, Retries

from finetune_operator import accounting
from finetune_operator.conditions import progressing
from finetune_operator.names import attempt_name
from finetune_operator.observation import Observation
from finetune_operator.verdicts import PREEMPTED, Answer, Verdict, judge_end, preempted
from finetune_operator.views import AttemptView, PodView

RUNNING = "Running"
JOB_DELETED = "JobDeleted"
LOST_AFTER = timedelta(minutes=5)
"""How long after it should be gone a pod counts as lost: its node is silent, and may stay so for ever."""


def kept(seen: Observation, status: FineTuneJobStatus, suspended: bool, now: datetime
         ) -> tuple[FineTuneJobStatus, Verdict | None]:
    """The status with its attempts and retries as they are now; the verdict on what is seen to have ended just now.

    Args:
        seen: what is observed.
        status: as it is so far.
        suspended: whether the job is: what it deletes counts for nothing.
        now: the time.
    """
    records = {one.number: one for one in status.attempts}
    views = {view.number: view for view in seen.attempts}
    retries = status.retries or Retries()
    first = min(records, default=0)
    verdict: Verdict | None = None
    for number in sorted({*records, *views}):
        earlier, view, before = records.get(number), views.get(number), records.get(number - 1)
        if earlier is not None and earlier.end_time is not None:
            continue
        if earlier is None and number < first:
            continue  # It is no longer listed, or never had a node: what is listed came after its end.
        if view is None:
            assert earlier is not None
            verdict = preempted() if told_preempted(status) else Verdict(
                Answer.RETRY_COUNTED, JOB_DELETED,
                f"the Job {attempt_name(seen.job.name, number)} was deleted while it ran")
            records[number] = earlier.model_copy(update={"reason": verdict.reason, "end_time": now})
            # Deleted by a suspend, and the pods' last words were not seen: that is nobody's failure.
            retries = accounting.count(retries, verdict, suspended)
            continue
        end = judge_end(view) if over(view, status, now) else None
        if end is not None:
            retries = accounting.count(retries, end, view.deleting and suspended)
            verdict = end
        made = _record(view, earlier, before, *_said(seen, view, end), end, _ended_at(view, status, now))
        if made is not None:
            records[number] = made
    attempts = tuple(records[number] for number in sorted(records))
    return status.model_copy(update={"attempts": attempts, "retries": retries}), verdict


def told_preempted(status: FineTuneJobStatus) -> bool:
    """Whether what was told last is that a queue takes back its quota: then the operator deletes the Job."""
    told = progressing(status)
    return told is not None and told.reason == PREEMPTED


def under_way(seen: Observation, status: FineTuneJobStatus, now: datetime) -> AttemptView | None:
    """The attempt that has not ended; None where none is."""
    ended = {one.number for one in status.attempts if one.end_time}
    going = (one for one in reversed(seen.attempts) if one.number not in ended and not over(one, status, now))
    return next(going, None)


def over(attempt: AttemptView, status: FineTuneJobStatus, now: datetime) -> bool:
    """Whether nothing of an attempt runs any more."""
    return attempt.finished or _ended_at(attempt, status, now) is not None


def _ended_at(attempt: AttemptView, status: FineTuneJobStatus, now: datetime) -> datetime | None:
    return ended_at(attempt, now, any(one.number == attempt.number for one in status.attempts))


def scheduled_at(pods: Iterable[PodView]) -> datetime | None:
    """When an attempt's pods got their first node: from then on it costs."""
    return min((pod.scheduled_at for pod in pods if pod.scheduled_at), default=None)


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
    if len(finished) + len(lost) + len(gone) < len(attempt.pods):
        return None
    if attempt.suspended:
        # Preempted: what its Job makes next would be another run. Pods that ended well before that make it Complete.
        complete_soon = attempt.pods and all(
            pod.exit_code == ExitCode.OK and not pod.leaving_at and not pod.gone for pod in attempt.pods)
        started = had_node or scheduled_at(attempt.pods)
        return max(finished + lost, default=attempt.suspended_at) if started and not complete_soon else None
    return max(finished + lost, default=None) if attempt.deleting or lost else None


def _record(attempt: AttemptView, earlier: Attempt | None, before: Attempt | None,
            said: Result | ProgressMessage | None, step: int | None, verdict: Verdict | None, end: datetime | None
            ) -> Attempt | None:
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
    start = earlier.start_time if earlier else scheduled_at(attempt.pods)
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


def _said(seen: Observation, view: AttemptView, end: Verdict | None
          ) -> tuple[Result | ProgressMessage | None, int | None]:
    if end is not None and end.result is not None:
        return end.result, end.result.step
    progress = seen.progress if view is seen.attempts[-1] else None
    if progress is None or (progress.progress is None and not progress.resumed_from_step):
        return None, None  # It has not looked for a checkpoint yet: a zero would mean nothing.
    return progress, progress.progress.step if progress.progress else None
