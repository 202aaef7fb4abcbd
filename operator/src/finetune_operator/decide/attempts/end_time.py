"""Whether and when an attempt has ended: its nodes are paid for until then. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from finetune_api.exit_codes import ExitCode
from finetune_api.status import FineTuneJobStatus

from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.pod import PodView

LOST_AFTER = timedelta(minutes=5)
"""A pod that still exists this long after its deletion deadline counts as lost. Its node does not answer."""


def scheduled_at(pods: Iterable[PodView]) -> datetime | None:
    """When the first of an attempt's pods got a node: from then on the attempt costs money."""
    return min((pod.scheduled_at for pod in pods if pod.scheduled_at), default=None)


def end_time(attempt: AttemptView, status: FineTuneJobStatus, now: datetime) -> datetime | None:
    """When the last pod of an attempt ended; None while one runs or may still run."""
    had_node = any(record.number == attempt.number for record in status.attempts)
    return end_time_of_pods(attempt, now, had_node)


def has_ended(attempt: AttemptView, status: FineTuneJobStatus, now: datetime) -> bool:
    """Whether no pod of an attempt runs any more."""
    return attempt.finished or end_time(attempt, status, now) is not None


def end_time_of_pods(attempt: AttemptView, now: datetime, had_node: bool = False) -> datetime | None:
    """When the last pod of an attempt or a check ended; None while one runs or may still run.

    Args:
        attempt: the attempt.
        now: the time.
        had_node: whether the attempt is known to have had a node, even if its pods no longer exist.
    """
    released = [at for pod in attempt.pods if (at := _released_at(pod, now))]
    if attempt.finished:
        return max(released, default=attempt.finished_at)
    lost = [pod.deletion_deadline for pod in attempt.pods if pod.deletion_deadline and _is_lost(pod, now)]
    vanished = [pod for pod in attempt.pods if pod.deleted and not _released_at(pod, now)]
    if len(released) + len(lost) + len(vanished) < len(attempt.pods):
        return None
    last = max(released + lost, default=None)
    if attempt.suspended:
        return (last or attempt.suspended_at) if _was_preempted(attempt, had_node) else None
    return last if attempt.deleting or lost else None


def _was_preempted(attempt: AttemptView, had_node: bool) -> bool:
    """Whether a suspended attempt has run and will not be Complete: its Job would start again if Kueue admitted it."""
    started = had_node or scheduled_at(attempt.pods) is not None
    complete_soon = bool(attempt.pods) and all(
        pod.exit_code == ExitCode.OK and not pod.deletion_deadline and not pod.deleted for pod in attempt.pods)
    return started and not complete_soon


def waits_for_sidecars(attempt: AttemptView, now: datetime) -> bool:
    """Whether all trainers of an attempt have ended and only other containers in their pods still run."""
    return any(pod.has_running_sidecar for pod in attempt.pods) and all(
        pod.exit_code is not None or pod.deleted or _is_lost(pod, now) for pod in attempt.pods)


def _released_at(pod: PodView, now: datetime) -> datetime | None:
    """When a pod released its node.

    A deleted pod that was last observed with a running sidecar released it by its deletion deadline at the latest.
    """
    if pod.released_at or not pod.deleted or not pod.finished_at:
        return pod.released_at
    return max(pod.finished_at, min(pod.deletion_deadline, now)) if pod.deletion_deadline else pod.finished_at


def _is_lost(pod: PodView, now: datetime) -> bool:
    return bool(pod.deletion_deadline and not pod.released_at and not pod.deleted
                and now - pod.deletion_deadline >= LOST_AFTER)
