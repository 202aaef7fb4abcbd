"""What the pod of a check or of a report waits for: it needs CPUs only, and no job's conditions depend on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.reasons import Reason

from finetune_operator.decide.attempts.end_time import scheduled_at
from finetune_operator.decide.attempts.waiting import (
    POD_DELAY,
    next_start_check,
    why_held_without_queue,
    why_not_running,
)
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.settings import Settings


@dataclass(frozen=True)
class CpuPodWait:
    """What a pod waits for.

    Attributes:
        reason: one word; None if it runs, or there is nothing to report yet.
        message: the same in words.
        requeue_after: look again after this time; None to wait for the next change.
    """

    reason: Reason | None = None
    message: str = ""
    requeue_after: timedelta | None = None


def wait_of_cpu_pod(job: AttemptView, wanted_node: str, settings: Settings, now: datetime) -> CpuPodWait:
    """What the pod of a Job waits for that has not ended.

    Args:
        job: the Job.
        wanted_node: the kind of node that its pod needs, in words.
        settings: the administrator's.
        now: the time.
    """
    if job.suspended:
        queue = settings.preflight.queue_name
        why = f"the queue {queue} has not admitted it yet (Kueue starts it)" if queue else why_held_without_queue(
            "An administrator names a queue in preflight.queueName of the operator's settings")
        return CpuPodWait(Reason.WAITING_FOR_QUOTA, why)
    scheduled = scheduled_at(job.present_pods)
    requeue_after = None if job.pods else POD_DELAY
    if scheduled and not any(pod.running for pod in job.present_pods):
        requeue_after = next_start_check(scheduled, now, settings.start_timeout)
    waits_for = why_not_running(job, wanted_node, now)
    if waits_for is None:
        return CpuPodWait(requeue_after=requeue_after)
    unschedulable = any(pod.unschedulable is not None for pod in job.present_pods)
    return CpuPodWait(Reason.UNSCHEDULABLE if unschedulable else Reason.CANNOT_START, waits_for, requeue_after)


def cpu_node(settings: Settings) -> str:
    """The kind of node that such a pod needs, in words."""
    return f"{settings.preflight.cpu} CPU and {settings.preflight.memory} of memory"
