"""The attempts' records in the status: when each began and ended, how far it came, and what its end means. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import ProgressMessage, Result
from finetune_api.printable import printable
from finetune_api.reasons import Reason
from finetune_api.status import Attempt, FineTuneJobStatus, Retries

from finetune_operator.decide import accounting
from finetune_operator.decide.conditions import progressing
from finetune_operator.decide.failure import PREEMPTED, Answer, Verdict, judge_end, most_telling, preempted
from finetune_operator.names import attempt_name
from finetune_operator.observed.objects import AttemptView, PodView
from finetune_operator.observed.observation import Observation

RUNNING = Reason.RUNNING
JOB_DELETED = Reason.JOB_DELETED
_LONGEST = 1024
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
        earlier, view = records.get(number), views.get(number)
        before = [records[one] for one in sorted(records) if one < number]
        if earlier is None and number < first:
            continue  # It is no longer listed, or never had a node: what is listed came after its end.
        if earlier is not None and earlier.reason != RUNNING:
            records[number] = _released(earlier, view, status, now)
            continue
        if view is None:
            assert earlier is not None
            verdict = preempted() if told_preempted(status) else Verdict(
                Answer.RETRY_COUNTED, JOB_DELETED,
                f"the Job {attempt_name(seen.job.name, number)} was deleted while it ran")
            records[number] = _ended(earlier, verdict, now)
            # Deleted by a suspend, and the pods' last words were not seen: that is nobody's failure.
            retries = retries if suspended else accounting.count(retries, verdict, _brought_checkpoint(earlier, before))
            continue
        ended = over(view, status, now)
        end = judge_end(view) if ended or lingering(view, now) else None
        made = _record(seen, view, earlier, before, end)
        if made is None:
            continue
        if _shows_unseen_checkpoint(made, earlier, before):
            retries = Retries()
        if end is not None:
            if not (view.deleting and suspended):
                retries = accounting.count(retries, end, _brought_checkpoint(made, before))
            verdict = end
            made = _ended(made, end, (_ended_at(view, status, now) or made.start_time) if ended else None)
        records[number] = made
    attempts = tuple(records[number] for number in sorted(records))
    return status.model_copy(update={"attempts": attempts, "retries": retries}), verdict


def released(seen: Observation, status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status with the ends of attempts that are judged and held a node for longer, for containers beside theirs."""
    views = {view.number: view for view in seen.attempts}
    return status.model_copy(update={"attempts": tuple(
        one if one.reason == RUNNING else _released(one, views.get(one.number), status, now)
        for one in status.attempts)})


def _released(record: Attempt, view: AttemptView | None, status: FineTuneJobStatus, now: datetime) -> Attempt:
    if record.end_time is not None or (view is not None and not over(view, status, now)):
        return record
    end = (_ended_at(view, status, now) or record.start_time) if view is not None else now
    return record.model_copy(update={"end_time": max(end, record.start_time)})


def _ended(record: Attempt, verdict: Verdict, end: datetime | None) -> Attempt:
    """An attempt's record once it is known what its end means; `end` is None while its node is held."""
    said = printable(verdict.message)
    words = said if len(said) <= _LONGEST else said[:_LONGEST - 1] + "…"
    last = max(end, record.start_time) if end else None  # A node's clock may be behind that of the scheduler.
    return record.model_copy(update={"reason": verdict.reason, "end_time": last, "message": words})


def unstarted(status: FineTuneJobStatus, verdict: Verdict) -> FineTuneJobStatus:
    """The status once the running attempt is given up before its trainer ran. Until its pod is gone it holds a node."""
    return status.model_copy(update={
        "retries": accounting.count(status.retries or Retries(), verdict),
        "attempts": tuple(_ended(one, verdict, None) if one.reason == RUNNING else one for one in status.attempts)})


def has_run(status: FineTuneJobStatus) -> bool:
    """Whether a trainer of the job has run before."""
    return status.progress is not None or status.stage is not None or any(
        one.exit_code is not None for one in status.attempts)


def _brought_checkpoint(record: Attempt, before: Sequence[Attempt]) -> bool:
    """Whether an attempt got further than all before it: one that began again from nothing has only caught up."""
    return (record.checkpoint_step or 0) > max(furthest(before), record.resumed_from_step or 0)


def furthest(records: Sequence[Attempt]) -> int:
    """The newest checkpoint that attempts are known to have completed; 0 for none."""
    return max((max(one.checkpoint_step or 0, one.resumed_from_step or 0) for one in records), default=0)


def _shows_unseen_checkpoint(record: Attempt, earlier: Attempt | None, before: Sequence[Attempt]) -> bool:
    """Whether an attempt goes on from a checkpoint that nobody saw the one before it write, such as just before a node
    was lost."""
    if not record.resumed_from_step or (earlier is not None and earlier.resumed_from_step is not None):
        return False
    return bool(before) and record.resumed_from_step > furthest(before)


def told_preempted(status: FineTuneJobStatus) -> bool:
    """Whether what was told last is that a queue takes back its quota: then the operator deletes the Job."""
    told = progressing(status)
    return told is not None and told.reason == PREEMPTED


def under_way(seen: Observation, status: FineTuneJobStatus, now: datetime) -> AttemptView | None:
    """The attempt that has not ended; None where none is."""
    ended = {one.number for one in status.attempts if one.reason != RUNNING}
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
    released = [at for pod in attempt.pods if (at := _released_at(pod, now))]
    if attempt.finished:
        return max(released, default=attempt.finished_at)
    lost = [pod.leaving_at for pod in attempt.pods if pod.leaving_at and _is_lost(pod, now)]
    gone = [pod for pod in attempt.pods if pod.gone and not _released_at(pod, now)]
    if len(released) + len(lost) + len(gone) < len(attempt.pods):
        return None
    if attempt.suspended:
        # Preempted: what its Job makes next would be another run. Pods that ended well before that make it Complete.
        complete_soon = attempt.pods and all(
            pod.exit_code == ExitCode.OK and not pod.leaving_at and not pod.gone for pod in attempt.pods)
        started = had_node or scheduled_at(attempt.pods)
        return max(released + lost, default=attempt.suspended_at) if started and not complete_soon else None
    return max(released + lost, default=None) if attempt.deleting or lost else None


def lingering(attempt: AttemptView, now: datetime) -> bool:
    """Whether all trainers of an attempt have ended, and it goes on only for containers beside them."""
    return any(pod.lingers for pod in attempt.pods) and all(
        pod.exit_code is not None or pod.gone or _is_lost(pod, now) for pod in attempt.pods)


def _released_at(pod: PodView, now: datetime) -> datetime | None:
    """When a pod let go of its node; of one that is gone, and was last seen with containers beside the trainer: at
    the latest when it had to."""
    if pod.released_at or not pod.gone or not pod.finished_at:
        return pod.released_at
    return max(pod.finished_at, min(pod.leaving_at, now)) if pod.leaving_at else pod.finished_at


def _is_lost(pod: PodView, now: datetime) -> bool:
    return bool(pod.leaving_at and not pod.released_at and not pod.gone and now - pod.leaving_at >= LOST_AFTER)


def _record(seen: Observation, view: AttemptView, earlier: Attempt | None, before: Sequence[Attempt],
            verdict: Verdict | None) -> Attempt | None:
    """An attempt's record as it is now; None for one that has no node yet.

    Args:
        seen: everything that is observed.
        view: what is observed of the attempt.
        earlier: its record so far.
        before: the records of those before it.
        verdict: what its end means, once it has ended.
    """
    start = earlier.start_time if earlier else scheduled_at(view.pods)
    if start is None and verdict is None:
        return None
    if start is None:  # It never had a node that anybody saw, and cost nothing.
        start = view.finished_at or view.created_at
    known = earlier or Attempt(number=view.number, reason=RUNNING, start_time=start)
    said, step = _said(seen, view, verdict)
    resumed = said.resumed_from_step if said else known.resumed_from_step
    checkpoint = max((said.checkpoint_step if said else 0), known.checkpoint_step or 0) or None
    lost = None
    if resumed is not None and before and before[-1].number == view.number - 1 and before[-1].last_step is not None:
        lost = max(before[-1].last_step - resumed, 0)
    pod = most_telling(view)
    return known.model_copy(update={
        "resumed_from_step": resumed, "last_step": max(step or 0, known.last_step or 0) or None,
        "checkpoint_step": checkpoint, "lost_steps": lost, "node": (pod.node if pod else None) or known.node,
        "exit_code": pod.exit_code if pod and verdict else None,
    })


def _said(seen: Observation, view: AttemptView, end: Verdict | None
          ) -> tuple[Result | ProgressMessage | None, int | None]:
    if end is not None and end.result is not None:
        return end.result, end.result.step
    progress = seen.progress if view is seen.attempts[-1] else None
    if progress is None or (progress.progress is None and not progress.resumed_from_step):
        return None, None  # It has not looked for a checkpoint yet: a zero would mean nothing.
    return progress, progress.progress.step if progress.progress else None
