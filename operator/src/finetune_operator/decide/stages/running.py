"""An attempt is under way: it waits for a queue or a node, starts, or runs. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from finetune_api.messages import ProgressMessage, Stage
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, Phase

from finetune_operator.decide.actions import Action, Apply, Plan, delete_job
from finetune_operator.decide.attempts.end_time import scheduled_at
from finetune_operator.decide.attempts.records import trainer_has_run, with_unstarted_attempt
from finetune_operator.decide.attempts.retry_delay import avoided_nodes
from finetune_operator.decide.attempts.waiting import (
    POD_DELAY,
    describe_wanted_node,
    lacks_pods,
    next_start_check,
    verdict_if_start_fails,
    why_held_without_queue,
    why_not_running,
)
from finetune_operator.decide.budget import with_limit_reached
from finetune_operator.decide.conditions import ConditionReport
from finetune_operator.decide.stages.after_attempt import plan_after_attempt
from finetune_operator.decide.stages.finish import merged_memory
from finetune_operator.decide.stages.next_attempt import attempt_limits
from finetune_operator.decide.stages.started_job import StartedJob, plan_reporting
from finetune_operator.decide.stages.stopping import plan_stop
from finetune_operator.manifests.child import identity
from finetune_operator.manifests.service import rendezvous_service
from finetune_operator.observed.attempt import AttemptView

QUICK_START = timedelta(seconds=5)
"""The conditions report the start of a pod only if it takes longer than this after its scheduling."""

_PHASES = {
    Stage.EVALUATING_BEFORE: Phase.EVALUATING, Stage.EVALUATING_AFTER: Phase.EVALUATING,
    Stage.EXPORTING: Phase.UPLOADING, Stage.PUBLISHING: Phase.UPLOADING, Stage.DONE: Phase.UPLOADING,
}
"""The phase of a job by its trainer's stage; in every other stage it is Running."""

_ACTIVITIES = {
    Stage.EVALUATING_BEFORE: "evaluating the held-out rows before training",
    Stage.EVALUATING_AFTER: "evaluating the held-out rows after training",
    Stage.PPO: "training with PPO",
    Stage.EXPORTING: "exporting the result",
    Stage.PUBLISHING: "publishing the result",
}
"""What an attempt does in a stage; for every other stage its own name says it."""


def plan_running(started: StartedJob, attempt: AttemptView) -> Plan:
    """What to do about an attempt that is under way."""
    started = replace(started, status=with_limit_reached(
        started.spec.budget, started.status, started.accelerator_count, started.now))
    stop = plan_stop(started, attempt)
    if stop is not None:
        return stop
    given_up = verdict_if_start_fails(attempt, started.now, started.settings.start_timeout,
                                      trainer_has_run(started.status))
    if given_up is not None:
        ended = replace(started, status=with_unstarted_attempt(started.status, given_up))
        return plan_after_attempt(ended, given_up)
    return _watch_attempt(_with_pinned_image(started, attempt), attempt)


def _with_pinned_image(started: StartedJob, attempt: AttemptView) -> StartedJob:
    """Pin the image to the digest that a node pulled: every attempt runs the same image, even if its tag moves."""
    pulled = next((pod.image_id for pod in attempt.pods if pod.image_id), None)
    image = started.status.image or started.settings.image_for(started.spec.engine)
    if not pulled or "@sha256:" not in pulled or "@sha256:" in image:
        return started
    digest = pulled.rpartition("@")[2]
    repository = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    return replace(started, status=started.status.model_copy(update={"image": f"{repository}@{digest}"}))


def _watch_attempt(started: StartedJob, attempt: AttemptView) -> Plan:
    """Report what an attempt waits for, or how far it is, and put its changeable children right."""
    actions = _apply_children(started, attempt)
    if attempt.suspended:
        return _report_queued(started, actions)
    wanted_node = describe_wanted_node(started.spec, started.accelerator)
    waits_for = why_not_running(attempt, wanted_node, started.now)
    if attempt.pods and lacks_pods(attempt, started.now):
        return plan_reporting(started, ConditionReport(Phase.STARTING, Reason.CANNOT_START, waits_for or ""), actions)
    if any(pod.running or pod.exit_code is not None for pod in attempt.present_pods):
        requeue_after = POD_DELAY if len(attempt.pods) < attempt.wanted_pods else None
        return _report_running(started, attempt, actions, requeue_after)
    if any(pod.unschedulable is not None for pod in attempt.present_pods):
        return _report_unschedulable(started, attempt, waits_for or "", actions)
    return _report_starting(started, attempt, waits_for, actions)


def _apply_children(started: StartedJob, attempt: AttemptView) -> tuple[Action, ...]:
    """Apply those of an attempt's changeable children that are not as they should be."""
    children = [attempt_limits(started, attempt.number)]
    if started.spec.compute.nodes > 1:
        children.append(rendezvous_service(started.job, attempt.number))
    return tuple(Apply(one) for one in children if identity(one) not in started.observation.applied_children)


def _report_queued(started: StartedJob, actions: tuple[Action, ...]) -> Plan:
    queue = started.spec.compute.queue_name
    message = f"the queue {queue} has not admitted the job yet (Kueue starts it)" if queue else why_held_without_queue(
        "Name a queue in compute.queueName of a new job")
    queued = ConditionReport(Phase.QUEUED, Reason.WAITING_FOR_QUOTA, message, admitted=False)
    return plan_reporting(started, queued, actions)


def _report_running(started: StartedJob, attempt: AttemptView, actions: tuple[Action, ...],
                    requeue_after: timedelta | None) -> Plan:
    progress = started.observation.progress
    if progress is None:
        nodes = ", ".join(sorted({pod.node for pod in attempt.pods if pod.node}))
        running = ConditionReport(Phase.RUNNING, Reason.RUNNING, f"attempt {attempt.number} runs on {nodes}",
                                  admitted=True)
        return plan_reporting(started, running, actions, requeue_after)
    phase = _PHASES.get(progress.stage, Phase.RUNNING)
    activity = _ACTIVITIES.get(progress.stage, progress.stage.value)
    running = ConditionReport(phase, Reason(phase), f"attempt {attempt.number} is {activity}", admitted=True)
    current = replace(started, status=_with_progress(started.status, progress))
    return plan_reporting(current, running, actions, requeue_after)


def _with_progress(status: FineTuneJobStatus, progress: ProgressMessage) -> FineTuneJobStatus:
    return status.model_copy(update={
        "stage": str(progress.stage), "progress": progress.progress or status.progress,
        "memory": merged_memory(status.memory, progress.memory)})


def _report_unschedulable(started: StartedJob, attempt: AttemptView, waits_for: str, actions: tuple[Action, ...]
                          ) -> Plan:
    """No node can take an attempt. If it avoids nodes that may help, it is created again when the avoidance ends."""
    avoided = avoided_nodes(started.status, started.settings.retry_delay, attempt.created_at)
    if not avoided:
        queued = ConditionReport(Phase.QUEUED, Reason.UNSCHEDULABLE, waits_for, admitted=False)
        return plan_reporting(started, queued, actions)
    first_end = min(avoided.values())
    nodes = ", ".join(f"{node} (until {end:%H:%M:%S} UTC)" for node, end in avoided.items())
    message = (f"{waits_for}. Attempt {attempt.number} may not use {nodes}, because an earlier attempt could not "
               "run there")
    unschedulable = ConditionReport(Phase.QUEUED, Reason.UNSCHEDULABLE, message, admitted=False)
    if first_end <= started.now:
        return plan_reporting(started, unschedulable, (delete_job(attempt.name),))
    return plan_reporting(started, unschedulable, actions, first_end - started.now)


def _report_starting(started: StartedJob, attempt: AttemptView, waits_for: str | None, actions: tuple[Action, ...]
                     ) -> Plan:
    scheduled = scheduled_at(attempt.present_pods)
    if waits_for is None and (scheduled is None or started.now - scheduled < QUICK_START):
        # Most pods run a moment later, which is reported then: this saves a write of the status.
        requeue_after = QUICK_START if scheduled else None if attempt.pods else POD_DELAY
        return Plan(started.job.status, actions, requeue_after=requeue_after)
    starting = ConditionReport(
        Phase.STARTING, Reason.CANNOT_START if waits_for else Reason.STARTING,
        waits_for or f"attempt {attempt.number} has a node, which pulls the image and starts the container",
        admitted=True)
    next_check = next_start_check(scheduled, started.now, started.settings.start_timeout)
    return plan_reporting(started, starting, actions, next_check)
