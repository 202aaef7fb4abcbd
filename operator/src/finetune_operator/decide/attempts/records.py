"""The records of the attempts in the status: when each began and ended, how far it came, what its end means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_api.messages import ProgressMessage, Result
from finetune_api.reasons import Reason
from finetune_api.status import Attempt, FineTuneJobStatus, Retries
from finetune_api.values.printable import printable

from finetune_operator.decide.attempts.end_time import end_time, has_ended, scheduled_at, waits_for_sidecars
from finetune_operator.decide.attempts.retry_counts import count_retry
from finetune_operator.decide.attempts.verdict import (
    AttemptVerdict,
    explaining_pod,
    failed_verdict,
    judge_end,
    preempted_verdict,
)
from finetune_operator.decide.conditions import progressing_condition
from finetune_operator.names import attempt_name
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.observation import Observation

RUNNING = Reason.RUNNING
_LONGEST_MESSAGE = 1024


@dataclass(frozen=True)
class UpdatedAttempts:
    """The attempts as a pass observes them.

    Attributes:
        status: the status with the updated records and retries.
        verdict: what the end of an attempt means, if this pass is the first to observe it.
    """

    status: FineTuneJobStatus
    verdict: AttemptVerdict | None


def update_attempts(observation: Observation, status: FineTuneJobStatus, suspended: bool, now: datetime
                    ) -> UpdatedAttempts:
    """The status with its attempts and retries as they are now.

    Args:
        observation: what is observed.
        status: the status before.
        suspended: whether the user suspended the job: then an attempt that the operator deletes is not counted.
        now: the time.
    """
    records = {one.number: one for one in status.attempts}
    views = {view.number: view for view in observation.attempts}
    first = min(records, default=0)
    current = _Observed(observation, status, suspended, now)
    retries = status.retries or Retries()
    updated: list[Attempt] = []
    verdict: AttemptVerdict | None = None
    for number in sorted({*records, *views}):
        record, view = records.get(number), views.get(number)
        if record is None and number < first:
            continue  # It is no longer listed, or it never had a node: all listed attempts came after its end.
        if record is not None and record.reason != RUNNING:
            updated.append(_with_node_release(record, view, status, now))
            continue
        change = _update_running(current, view, record, updated, retries)
        retries, verdict = change.retries, change.verdict or verdict
        if change.record is not None:
            updated.append(change.record)
    return UpdatedAttempts(status.model_copy(update={"attempts": tuple(updated), "retries": retries}), verdict)


@dataclass(frozen=True)
class _Observed:
    """What the update of every attempt depends on; the arguments of `update_attempts`."""

    observation: Observation
    status: FineTuneJobStatus
    suspended: bool
    now: datetime


@dataclass(frozen=True)
class _Change:
    """What one attempt changes: its record (None if it has no node yet), the retries, and the verdict on its end."""

    record: Attempt | None
    retries: Retries
    verdict: AttemptVerdict | None = None


def _update_running(current: _Observed, view: AttemptView | None, record: Attempt | None, before: Sequence[Attempt],
                    retries: Retries) -> _Change:
    """The change by an attempt without a recorded end; `before` has the records of those before it."""
    if view is None:
        return _Change(None, retries) if record is None else _end_without_job(current, record, before, retries)
    ended = has_ended(view, current.status, current.now)
    verdict = judge_end(view) if ended or waits_for_sidecars(view, current.now) else None
    updated = _record_of(current.observation, view, record, before, verdict)
    if updated is None:
        return _Change(None, retries)
    if _resumed_from_unknown_checkpoint(updated, record, before):
        retries = Retries()
    if verdict is None:
        return _Change(updated, retries)
    if not (view.deleting and current.suspended):
        retries = count_retry(retries, verdict, _wrote_newer_checkpoint(updated, before))
    end = (end_time(view, current.status, current.now) or updated.start_time) if ended else None
    return _Change(_with_end(updated, verdict, end), retries, verdict)


def _end_without_job(current: _Observed, record: Attempt, before: Sequence[Attempt], retries: Retries) -> _Change:
    """The change by a running attempt whose Job no longer exists."""
    name = attempt_name(current.observation.job.name, record.number)
    verdict = preempted_verdict() if is_preemption_reported(current.status) else failed_verdict(
        Reason.JOB_DELETED, f"the Job {name} was deleted while it ran")
    # If a suspend deleted it and the last state of its pods was not observed, that is nobody's failure.
    if not current.suspended:
        retries = count_retry(retries, verdict, _wrote_newer_checkpoint(record, before))
    return _Change(_with_end(record, verdict, current.now), retries, verdict)


def with_node_releases(observation: Observation, status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status with the end of each attempt that held its node beyond the trainer's end, for sidecars."""
    views = {view.number: view for view in observation.attempts}
    return status.model_copy(update={"attempts": tuple(
        one if one.reason == RUNNING else _with_node_release(one, views.get(one.number), status, now)
        for one in status.attempts)})


def _with_node_release(record: Attempt, view: AttemptView | None, status: FineTuneJobStatus, now: datetime) -> Attempt:
    if record.end_time is not None or (view is not None and not has_ended(view, status, now)):
        return record
    end = (end_time(view, status, now) or record.start_time) if view is not None else now
    return record.model_copy(update={"end_time": max(end, record.start_time)})


def _with_end(record: Attempt, verdict: AttemptVerdict, end: datetime | None) -> Attempt:
    """A record with the verdict on its end; `end` is None while a sidecar still holds the node."""
    text = printable(verdict.message)
    message = text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE - 1] + "…"
    # The clock of a node may be behind that of the scheduler.
    last = max(end, record.start_time) if end else None
    return record.model_copy(update={"reason": verdict.reason, "end_time": last, "message": message})


def with_unstarted_attempt(status: FineTuneJobStatus, verdict: AttemptVerdict) -> FineTuneJobStatus:
    """The status after the running attempt is given up before its trainer ran; it holds its node until its pod ends."""
    return status.model_copy(update={
        "retries": count_retry(status.retries or Retries(), verdict),
        "attempts": tuple(_with_end(one, verdict, None) if one.reason == RUNNING else one for one in status.attempts)})


def trainer_has_run(status: FineTuneJobStatus) -> bool:
    """Whether a trainer of the job has run in any attempt."""
    return status.progress is not None or status.stage is not None or any(
        one.exit_code is not None for one in status.attempts)


def newest_checkpoint_step(records: Sequence[Attempt]) -> int:
    """The newest checkpoint that attempts are known to have completed; 0 if there is none."""
    return max((max(one.checkpoint_step or 0, one.resumed_from_step or 0) for one in records), default=0)


def _wrote_newer_checkpoint(record: Attempt, before: Sequence[Attempt]) -> bool:
    """Whether an attempt went further than all before it. One that began at step 0 may only have caught up."""
    return (record.checkpoint_step or 0) > max(newest_checkpoint_step(before), record.resumed_from_step or 0)


def _resumed_from_unknown_checkpoint(record: Attempt, earlier: Attempt | None, before: Sequence[Attempt]) -> bool:
    """Whether an attempt resumed from a newer checkpoint than any that was observed.

    The attempt before it wrote that checkpoint unobserved, for example just before its node was lost.
    """
    if not record.resumed_from_step or (earlier is not None and earlier.resumed_from_step is not None):
        return False
    return bool(before) and record.resumed_from_step > newest_checkpoint_step(before)


def is_preemption_reported(status: FineTuneJobStatus) -> bool:
    """Whether the conditions report that a queue takes its quota back: then the operator deletes the Job."""
    condition = progressing_condition(status)
    return condition is not None and condition.reason == Reason.PREEMPTED


def active_attempt(observation: Observation, status: FineTuneJobStatus, now: datetime) -> AttemptView | None:
    """The attempt that has not ended; None if there is none."""
    ended = {one.number for one in status.attempts if one.reason != RUNNING}
    active = (one for one in reversed(observation.attempts)
              if one.number not in ended and not has_ended(one, status, now))
    return next(active, None)


def _record_of(observation: Observation, view: AttemptView, earlier: Attempt | None, before: Sequence[Attempt],
               verdict: AttemptVerdict | None) -> Attempt | None:
    """The record of an attempt as it is now; None for an attempt that has no node yet.

    Args:
        observation: everything that is observed.
        view: the attempt as it is observed.
        earlier: its record so far.
        before: the records of those before it.
        verdict: what its end means; None if it has not ended.
    """
    record = earlier or _new_record(view, ended=verdict is not None)
    if record is None:
        return None
    message, step = _last_message(observation, view, verdict)
    resumed = message.resumed_from_step if message else record.resumed_from_step
    checkpoint = max((message.checkpoint_step if message else 0), record.checkpoint_step or 0) or None
    pod = explaining_pod(view)
    return record.model_copy(update={
        "resumed_from_step": resumed, "last_step": max(step or 0, record.last_step or 0) or None,
        "checkpoint_step": checkpoint, "lost_steps": _lost_steps(view.number, resumed, before),
        "node": (pod.node if pod else None) or record.node,
        "exit_code": pod.exit_code if pod and verdict else None,
    })


def _new_record(view: AttemptView, ended: bool) -> Attempt | None:
    start = scheduled_at(view.pods)
    if start is None and ended:
        start = view.finished_at or view.created_at  # Nobody observed a node: the attempt cost nothing.
    return None if start is None else Attempt(number=view.number, reason=RUNNING, start_time=start)


def _lost_steps(number: int, resumed_from_step: int | None, before: Sequence[Attempt]) -> int | None:
    """How many steps of the attempt before it an attempt repeats; None if that is not known."""
    if resumed_from_step is None or not before:
        return None
    previous = before[-1]
    if previous.number != number - 1 or previous.last_step is None:
        return None
    return max(previous.last_step - resumed_from_step, 0)


def _last_message(observation: Observation, view: AttemptView, verdict: AttemptVerdict | None
                  ) -> tuple[Result | ProgressMessage | None, int | None]:
    """The trainer's last message, and the step that it names."""
    if verdict is not None and verdict.result is not None:
        return verdict.result, verdict.result.step
    message = observation.progress if view is observation.attempts[-1] else None
    if message is None or (message.progress is None and not message.resumed_from_step):
        return None, None  # The trainer has not looked for a checkpoint yet: its 0 means nothing.
    return message, message.progress.step if message.progress else None
