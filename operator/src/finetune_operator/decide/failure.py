"""What the end of an attempt means: from pod state, exit code and termination message, never from logs. Pure.

The failure classes of finetune_api say what follows from each reason; docs/reference/conditions.md lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from finetune_api.exit_codes import ExitCode
from finetune_api.failures import FAILURE_CLASSES, Retry, failure_class, failure_class_of_exit_code
from finetune_api.messages import Outcome, Result
from finetune_api.reasons import Reason

from finetune_operator.observed.objects import AttemptView, PodView

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONTAINER = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_BEING_MADE = {"ContainerCreating", "PodInitializing"}
_LOST = "the trainer's pod is gone without an exit code (node lost, or pod deleted by force)"
_MORE_DISK = ("More disk is ephemeralStorage of the accelerator in the operator's settings (preflight.ephemeralStorage "
              "for a check); modelCacheClaim keeps models elsewhere")
KILLED = 137
NO_POD = timedelta(seconds=30)
"""How long a Job that may run can be without a pod before that is told."""

NO_QUEUE = ("its Job is suspended, though it is in no queue: something holds every such Job back (Kueue's "
            "manageJobsWithoutQueueName); {}")
"""With what is to be done about it."""

CHECKING = Reason.PREFLIGHT
WAITING_FOR_CHECK = Reason.WAITING_FOR_CHECK
RETRYING = Reason.RETRYING
PREEMPTED = Reason.PREEMPTED
OVERDUE = Reason.DEADLINE_EXCEEDED
DISRUPTED = Reason.DISRUPTED
NODE_REFUSED = Reason.NODE_REFUSED
POD_LOST = Reason.POD_LOST


class Answer(Enum):
    """What the operator does about an ending."""

    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY_FREE = "retry, free"
    RETRY_SMALLER = "retry once with a smaller plan"
    RETRY_COUNTED = "retry, up to backoffLimit"
    RETRY_ELSEWHERE = "retry, for as long as it takes, on another node"


_ANSWERS = {Retry.NEVER: Answer.FAIL, Retry.FREE: Answer.RETRY_FREE, Retry.COUNTED: Answer.RETRY_COUNTED,
            Retry.SMALLER_PLAN: Answer.RETRY_SMALLER, Retry.ELSEWHERE: Answer.RETRY_ELSEWHERE}


def answer_to(reason: str, ran: bool = True) -> Answer:
    """What the failure class of a reason asks for; a retry that counts for a reason that has none.

    Args:
        reason: why the attempt ended.
        ran: whether a trainer of the job has run before.
    """
    failure = failure_class(reason)
    if failure is None:
        return Answer.RETRY_COUNTED
    return _ANSWERS[failure.retry if ran or failure.first_start is None else failure.first_start]


@dataclass(frozen=True)
class Verdict:
    """What an ending means.

    Attributes:
        reason: one word, for conditions and attempts.
        message: a sentence that tells a stranger what to do.
        result: what the trainer reported, if that can be read.
    """

    answer: Answer
    reason: str
    message: str
    result: Result | None = None


def judge_end(attempt: AttemptView) -> Verdict:
    """What the end of a finished attempt means."""
    if attempt.complete:
        return _judge_success(attempt)
    if attempt.pods and all(pod.exit_code == ExitCode.OK for pod in attempt.pods):
        # Containers beside them go on, or the Job was about to be Complete when it was deleted.
        return _judge_success(attempt)
    pod = most_telling(attempt)
    if pod and pod.overdue and not _is_final(pod.exit_code):
        return _verdict(OVERDUE, "the trainer still ran two hours after budget.maxDuration, and the "
                       "kubelet stopped it", pod.result)
    if attempt.suspended and not attempt.finished:
        return preempted(pod)
    if pod is None:
        return _verdict(POD_LOST, _LOST)
    if pod.exit_code is not None and (pod.oom_killed or _is_trainers_own(pod.exit_code)):
        return _judge_exit(pod)
    return _judge_from_outside(pod)


def _judge_from_outside(pod: PodView) -> Verdict:
    """What an ending means that the trainer had no part in, or can't tell of: the kubelet's words come first."""
    node = f"node {pod.node}" if pod.node else "its node"
    reason, words = pod.ended_by or ("", "")
    told = f"{reason}: {words}" if words else reason
    if reason and pod.exit_code is None and not pod.running:
        return _verdict(NODE_REFUSED, f"{node} refused the pod: {told}")
    if pod.disruption or reason not in ("", Reason.EVICTED):
        both = "; ".join(dict.fromkeys(text for text in (pod.disruption, told) if text))
        return _verdict(DISRUPTED, f"the pod was taken from {node}: {both}", pod.result)
    if reason:
        # A lack of the node would be a disruption too: this is a limit of the pod's own.
        return _verdict(Reason.EVICTED, f"the kubelet evicted the pod: {words} {_MORE_DISK}",
                       pod.result)
    if pod.exit_code is not None:
        return _judge_exit(pod)
    if pod.leaving_at and not pod.gone:
        return Verdict(Answer.RETRY_FREE, POD_LOST, f"{node} is silent: the trainer's pod should have ended long ago")
    return _verdict(POD_LOST, _LOST)


def preempted(pod: PodView | None = None) -> Verdict:
    """A queue took its quota back: how the trainer ended matters only where another attempt would end likewise."""
    end = _judge_exit(pod) if pod and pod.exit_code is not None else None
    if end and end.answer in (Answer.FAIL, Answer.RETRY_SMALLER):
        return end
    return _verdict(PREEMPTED, "the queue took back the quota that it had given the job (preempted)"
                   + (f": {end.message}" if end else ""), end.result if end else None)


def _judge_success(attempt: AttemptView) -> Verdict:
    result = next((pod.result for pod in attempt.pods if pod.result and pod.exit_code == ExitCode.OK), None)
    if result is None:
        return _verdict(Reason.RESULT_LOST,
                        "the trainer ended well, but its result can't be read: the next attempt adopts what is "
                        "published")
    if result.outcome is Outcome.QUALITY_GATE:
        return _verdict(result.outcome, result.message, result)
    return Verdict(Answer.SUCCEED, result.outcome, result.message, result)


def most_telling(attempt: AttemptView) -> PodView | None:
    """The pod whose ending explains an attempt's: when one fails, the others are only asked to stop."""
    def rank(pod: PodView) -> int:
        if _is_final(pod.exit_code) or pod.exit_code == ExitCode.OUT_OF_MEMORY or pod.oom_killed:
            return 0
        if pod.ended_by or pod.disruption:
            return 1  # The others only miss it.
        if pod.exit_code is None:
            return 4
        if pod.exit_code == ExitCode.OK:
            return 5
        return 3 if pod.exit_code == ExitCode.STOPPED else 2

    return min((pod for pod in attempt.pods if pod.scheduled_at or pod.node), key=rank, default=None)


def _judge_exit(pod: PodView) -> Verdict:
    """What an ending means by the trainer's exit code."""
    code, result = pod.exit_code, pod.result
    if pod.oom_killed:
        return _verdict(Reason.HOST_OUT_OF_MEMORY,
                        "the trainer needed more host memory than its pod has: write a larger compute.memory", result)
    known = failure_class_of_exit_code(code) if code else None
    if known is None or code == ExitCode.INTERNAL:
        if result:
            return Verdict(Answer.RETRY_COUNTED, result.outcome, result.message, result)
        return _verdict(Reason.KILLED if code == KILLED else Reason.UNKNOWN_EXIT,
                        f"the trainer ended with exit code {code}")
    said = result.message if result else known.message
    if code == ExitCode.STOPPED and pod.disruption:
        said = f"{said} ({pod.disruption})"
    return Verdict(_ANSWERS[known.retry], str(result.outcome) if result else known.reason, said, result)


def _verdict(reason: str, message: str, result: Result | None = None) -> Verdict:
    """The verdict that the failure class of a reason asks for."""
    return Verdict(answer_to(reason), reason, message, result)


def _is_final(code: int | None) -> bool:
    """Whether the trainer ended with a code that no other attempt would change."""
    known = failure_class_of_exit_code(code) if code else None
    return known is not None and known.retry is Retry.NEVER


def _is_trainers_own(code: int) -> bool:
    """Whether the trainer chose this code, and for a reason that it knew."""
    return code != ExitCode.INTERNAL and failure_class_of_exit_code(code) is not None


TRAINERS_OWN = frozenset(one.reason for one in FAILURE_CLASSES if one.changes_training)
"""Failures of which the cure changes what is trained, so that no other job can resume from their checkpoints."""

UNSTARTED = frozenset(one.reason for one in FAILURE_CLASSES if one.avoids_node)
"""Endings of attempts whose trainer never ran: they are the node's, the registry's or a volume's."""


def judge_start(attempt: AttemptView, now: datetime, patience: timedelta, ran: bool = False) -> Verdict | None:
    """Whether an attempt that has a node will never start; None while there is hope.

    Args:
        attempt: the attempt.
        now: the time.
        patience: how long it may take with a node.
        ran: whether a trainer of the job has run before: then something has changed that will change again.
    """
    then = "" if ran else ", and apply the job again"
    for pod in attempt.present:
        if pod.running or pod.exit_code is not None or pod.scheduled_at is None:
            continue
        if now - pod.scheduled_at < patience:
            continue
        reason, words = pod.waiting or ("", "")
        if reason in _IMAGE:
            return _unstarted(Reason.IMAGE_PULL_FAILED, ran, f"the trainer's image can't be pulled: {words or reason}; "
                           "check the operator's trainerImage, its registry and imagePullSecrets")
        if reason in _CONTAINER:
            return _unstarted(Reason.CONTAINER_CONFIG_ERROR, ran, f"the trainer's container can't start: "
                           f"{words or reason}; {_advice(words)}{then}")
        return _unstarted(Reason.START_TIMEOUT, ran, f"the trainer's pod did not start in {patience}: "
                       f"{f'{reason}: {words}' if words else reason or 'the kubelet gives no reason'}; "
                       f"`kubectl describe pod {pod.name}` shows its volumes and events")
    return None


def _unstarted(reason: Reason, ran: bool, message: str) -> Verdict:
    return Verdict(answer_to(reason, ran), reason, message)


def _advice(words: str) -> str:
    if "secret" in words.lower():
        return ("create the Secret that the job names, in the job's namespace, with the keys of its purpose (HF_TOKEN; "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; OPENAI_API_KEY)")
    return "mend that"


def lacks_pod(attempt: AttemptView, now: datetime) -> bool:
    """Whether an attempt that may run has been without a pod, or one of its pods, for long."""
    waits = attempt.released_at is not None and now - attempt.released_at >= NO_POD
    return waits and len(attempt.pods) < attempt.wanted and not (attempt.finished or attempt.deleting)


def starts_silently(pod: PodView, now: datetime) -> bool:
    """Whether a pod has had a node for long, and its state does not say why it has not started: a volume, a network."""
    if pod.running or pod.exit_code is not None or pod.scheduled_at is None:
        return False
    return now - pod.scheduled_at >= NO_POD and (pod.waiting is None or pod.waiting[0] in _BEING_MADE)


def look_again(scheduled: datetime | None, now: datetime, patience: timedelta) -> timedelta | None:
    """When to look again at a pod that has a node and is not started; None where there is nothing to wait for."""
    moments = (scheduled + NO_POD, scheduled + patience) if scheduled else ()
    return next((moment - now for moment in moments if moment > now), None)


def waiting_words(attempt: AttemptView, looked_for: str, now: datetime) -> str | None:
    """Why an attempt's pod is not running yet, in words; None where there is nothing to tell.

    Args:
        attempt: the attempt.
        looked_for: what kind of node it wants.
        now: the time.
    """
    if lacks_pod(attempt, now):
        words = attempt.no_pod or (f"`kubectl describe job {attempt.name}` has the apiserver's words. Mostly a "
                                   "ResourceQuota or LimitRange stands in the way, or a ServiceAccount or "
                                   "PriorityClass is missing")
        some = (f"{len(attempt.pods)} of its {attempt.wanted} pods are there, and wait ten minutes for the others. No "
                "further pod") if attempt.pods else "no pod"
        return f"{some} of it can be made: {words.rstrip('.')}. It goes on by itself once that is changed"
    for pod in attempt.present:
        if pod.unschedulable is not None:
            return (f"no node takes the pod, which looks for {looked_for}; the scheduler says: {pod.unschedulable}. "
                    "It waits, which costs nothing; another compute.accelerator is another job")
        if pod.waiting and pod.waiting[0] not in _BEING_MADE:
            reason, words = pod.waiting
            return f"the pod can't start yet: {reason}: {words}" if words else f"the pod can't start yet: {reason}"
    return None
