"""An attempt that must end, or ends, before its training is done. Pure."""

from __future__ import annotations

from finetune_api.exit_codes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.status import Phase

from finetune_operator.decide.actions import Action, Plan, delete_job
from finetune_operator.decide.attempts.records import is_preemption_reported
from finetune_operator.decide.budget import overdue_reason
from finetune_operator.decide.conditions import ConditionReport
from finetune_operator.decide.stages.started_job import StartedJob, plan_reporting
from finetune_operator.observed.attempt import AttemptView


def plan_stop(started: StartedJob, attempt: AttemptView) -> Plan | None:
    """What to do about an attempt that must end or ends; None for an attempt that continues.

    Args:
        started: the job, with the time since when a limit of its budget is reached.
        attempt: the attempt that is under way.
    """
    delete = () if attempt.deleting else (delete_job(attempt.name),)
    overdue = overdue_reason(started.spec.budget, started.status, started.accelerator_count, started.now)
    if overdue or started.spec.run_policy.suspend:
        return _report_stop(started, Reason.STOPPING, overdue or "the trainer writes a checkpoint and stops", delete)
    reported = is_preemption_reported(started.job.status)
    if _is_preempted(attempt, reported):
        # The preemption is reported first, so that the next pass knows that this end is no failure. Then the Job is
        # deleted: if Kueue admitted it again, it would create a second pod beside the one that ends.
        leaving = reported and any(pod.scheduled_at and pod.deletion_deadline for pod in attempt.present_pods)
        queue = started.spec.compute.queue_name
        return _report_stop(started, Reason.PREEMPTED, f"{f'the queue {queue}' if queue else 'Kueue'} takes back the "
                            "quota that it gave the job. The trainer writes a checkpoint and stops",
                            delete if leaving else ())
    if _has_failed_trainer(attempt) and not attempt.deleting:
        return _report_stop(started, Reason.STOPPING, "one of the attempt's trainers has failed. The others are "
                            "stopped", delete)
    if attempt.deleting:
        return _report_stop(started, Reason.PREEMPTED if reported else Reason.STOPPING,
                            "the attempt's Job is being deleted. The next attempt starts when its pods are gone", ())
    return None


def _is_preempted(attempt: AttemptView, reported: bool) -> bool:
    """Whether Kueue suspends an attempt that has a node, or has done so and its pod leaves."""
    on_nodes = [pod for pod in attempt.present_pods if pod.scheduled_at]
    return bool(on_nodes) and (attempt.suspended or (reported and any(pod.deletion_deadline for pod in on_nodes)))


def _has_failed_trainer(attempt: AttemptView) -> bool:
    return any(pod.has_running_sidecar and pod.exit_code != ExitCode.OK for pod in attempt.present_pods)


def _report_stop(started: StartedJob, reason: Reason, message: str, actions: tuple[Action, ...]) -> Plan:
    phase = started.status.phase or Phase.STARTING
    return plan_reporting(started, ConditionReport(phase, reason, message), actions)
