"""Why an attempt's trainer does not run yet, and when to give it up. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.reasons import Reason
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.quantities import format_duration

from finetune_operator.decide.attempts.verdict import AttemptVerdict, retry_after
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.pod import PodView
from finetune_operator.settings import Accelerator

_IMAGE_ERRORS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONTAINER_ERRORS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_BEING_CREATED = {"ContainerCreating", "PodInitializing"}

POD_DELAY = timedelta(seconds=30)
"""For this long a Job may have no pod, and a pod on a node may be silent, before the conditions report it."""


def verdict_if_start_fails(attempt: AttemptView, now: datetime, start_timeout: timedelta, trainer_has_run: bool = False
                           ) -> AttemptVerdict | None:
    """The verdict on an attempt that has a node and does not start; None while it may still start.

    Args:
        attempt: the attempt.
        now: the time.
        start_timeout: how long a pod may take from its scheduling to its start.
        trainer_has_run: whether a trainer of the job has run before. Then the cause is new and will pass, so another
            attempt follows.
    """
    for pod in attempt.present_pods:
        if pod.running or pod.exit_code is not None or pod.scheduled_at is None:
            continue
        if now - pod.scheduled_at >= start_timeout:
            return _judge_pod_without_start(pod, start_timeout, trainer_has_run)
    return None


def _judge_pod_without_start(pod: PodView, start_timeout: timedelta, trainer_has_run: bool) -> AttemptVerdict:
    reason, words = pod.waiting or ("", "")
    if reason in _IMAGE_ERRORS:
        return _unstarted(Reason.IMAGE_PULL_FAILED, f"the trainer's image cannot be pulled: {words or reason}. Check "
                          "the operator's trainerImage, its registry and imagePullSecrets", trainer_has_run)
    if reason in _CONTAINER_ERRORS:
        then = "" if trainer_has_run else ", and apply the job again"
        return _unstarted(Reason.CONTAINER_CONFIG_ERROR, f"the trainer's container cannot start: {words or reason}. "
                          f"{_cure_of_container_error(words)}{then}", trainer_has_run)
    quote = f"{reason}: {words}" if words else reason or "the kubelet gives no reason"
    return _unstarted(Reason.START_TIMEOUT, f"the trainer's pod did not start within startTimeout "
                      f"({format_duration(start_timeout)}): {quote}. Run `kubectl describe pod {pod.name}` to see its "
                      "volumes and events", trainer_has_run)


def _unstarted(reason: Reason, message: str, trainer_has_run: bool) -> AttemptVerdict:
    return AttemptVerdict(reason, message, retry_after(reason, trainer_has_run))


def _cure_of_container_error(words: str) -> str:
    if "secret" in words.lower():
        return ("Create the Secret that the job names, in the job's namespace, with the keys of its purpose (HF_TOKEN; "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; OPENAI_API_KEY)")
    return "Correct that"


def lacks_pods(attempt: AttemptView, now: datetime) -> bool:
    """Whether an attempt that no queue holds back has missed one of its pods for long."""
    for_long = attempt.unsuspended_at is not None and now - attempt.unsuspended_at >= POD_DELAY
    return for_long and len(attempt.pods) < attempt.wanted_pods and not (attempt.finished or attempt.deleting)


def starts_silently(pod: PodView, now: datetime) -> bool:
    """Whether a pod has had a node for long and its state does not say why it has not started (a volume, a network)."""
    if pod.running or pod.exit_code is not None or pod.scheduled_at is None:
        return False
    return now - pod.scheduled_at >= POD_DELAY and (pod.waiting is None or pod.waiting[0] in _BEING_CREATED)


def next_start_check(scheduled_at: datetime | None, now: datetime, start_timeout: timedelta) -> timedelta | None:
    """When to look again at a pod that has a node and has not started; None if there is nothing to wait for."""
    moments = (scheduled_at + POD_DELAY, scheduled_at + start_timeout) if scheduled_at else ()
    return next((moment - now for moment in moments if moment > now), None)


def why_not_running(attempt: AttemptView, wanted_node: str, now: datetime) -> str | None:
    """Why an attempt's pod does not run yet, in words; None if there is nothing to report.

    Args:
        attempt: the attempt.
        wanted_node: the kind of node that its pods need, in words.
        now: the time.
    """
    if lacks_pods(attempt, now):
        return _why_no_pod(attempt)
    for pod in attempt.present_pods:
        if pod.unschedulable is not None:
            return (f"no node can take the pod, which needs {wanted_node}; the scheduler says: {pod.unschedulable}. "
                    "The pod waits, which costs nothing. For another compute.accelerator, create another job")
        if pod.waiting and pod.waiting[0] not in _BEING_CREATED:
            reason, words = pod.waiting
            return f"the pod cannot start yet: {reason}: {words}" if words else f"the pod cannot start yet: {reason}"
    return None


def _why_no_pod(attempt: AttemptView) -> str:
    why = attempt.pod_creation_error or (
        f"run `kubectl describe job {attempt.name}` to see why. Most often a ResourceQuota or a LimitRange forbids it, "
        "or a ServiceAccount or a PriorityClass does not exist")
    what = f"the Job {attempt.name} cannot create a pod"
    if attempt.pods:
        what = (f"{len(attempt.pods)} of the {attempt.wanted_pods} pods of the Job {attempt.name} exist, and wait ten "
                "minutes for the others. It cannot create another pod")
    return f"{what}: {why.rstrip('.')}. The job continues by itself once the cause is fixed"


def why_held_without_queue(cure: str) -> str:
    """Why a Job is suspended without being in a queue, in words.

    Args:
        cure: the sentence that says how to name a queue.
    """
    return ("its Job is suspended, but it is not in a queue. Some component suspends Jobs without a queue (Kueue "
            f"does, with manageJobsWithoutQueueName). {cure}")


def describe_wanted_node(spec: FineTuneJobSpec, accelerator: Accelerator) -> str:
    """The kind of node that a trainer needs, in words."""
    labels = {**accelerator.node_selector, **(spec.compute.node_selector or {})}
    wanted = [f"{key}={value}" for key, value in labels.items()]
    if accelerator.resource:
        wanted.insert(0, f"{spec.compute.gpus_per_node} {accelerator.resource}")
    return f"{spec.compute.accelerator} ({', '.join(wanted)})" if wanted else spec.compute.accelerator
