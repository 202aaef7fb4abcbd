"""What the end of an attempt means: from pod state, exit code and termination message, never from logs. Pure.

The table is in docs/explanation/operator.md; tests/operator/test_plan_endings.py goes through every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome, Result

from finetune_operator.observed.objects import AttemptView, PodView

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONTAINER = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_BEING_MADE = {"ContainerCreating", "PodInitializing"}
_FINAL = {ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.MISSING_INPUT, ExitCode.DIVERGED,
          ExitCode.OUTPUT_NOT_WRITABLE}
_UNSAID: dict[int, str] = {
    ExitCode.BAD_CONFIG: "the trainer found the configuration impossible, and could not say why",
    ExitCode.BAD_DATA: "the trainer could not learn from the data, and could not say why",
    ExitCode.MISSING_INPUT: "the model or the data set can't be opened",
    ExitCode.DIVERGED: "the loss became NaN or ran away: try a smaller training.learningRate",
    ExitCode.OUT_OF_MEMORY: "the accelerator's memory does not suffice",
    ExitCode.OUTPUT_NOT_WRITABLE: "the output can't be written: check output.uri and its credentials",
    ExitCode.STOPPED: "the trainer was asked to stop, and checkpointed",
}
_LOST = "the trainer's pod is gone without an exit code (node lost, or pod deleted by force)"
_MORE_DISK = ("More disk is ephemeralStorage of the accelerator in the operator's settings (preflight.ephemeralStorage "
              "for a check); modelCacheClaim keeps models elsewhere")
KILLED = 137
NO_POD = timedelta(seconds=30)
"""How long a Job that may run can be without a pod before that is told."""

NO_QUEUE = ("its Job is suspended, though it is in no queue: something holds every such Job back (Kueue's "
            "manageJobsWithoutQueueName); {}")
"""With what is to be done about it."""

CHECKING = "Preflight"
WAITING_FOR_CHECK = "WaitingForCheck"
RETRYING = "Retrying"
PREEMPTED = "Preempted"
OVERDUE = "DeadlineExceeded"
DISRUPTED = "Disrupted"
NODE_REFUSED = "NodeRefused"
POD_LOST = "PodLost"
_EVICTED = "Evicted"


class Answer(Enum):
    """What the operator does about an ending."""

    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY_FREE = "retry, free"
    RETRY_SMALLER = "retry once with a smaller plan"
    RETRY_COUNTED = "retry, up to backoffLimit"
    RETRY_ELSEWHERE = "retry, for as long as it takes, on another node"


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
    if pod and pod.overdue and pod.exit_code not in _FINAL:
        return Verdict(Answer.RETRY_FREE, OVERDUE, "the trainer still ran two hours after budget.maxDuration, and the "
                       "kubelet stopped it", pod.result)
    if attempt.suspended and not attempt.finished:
        return preempted(pod)
    if pod is None:
        return Verdict(Answer.RETRY_COUNTED, POD_LOST, _LOST)
    if pod.exit_code is not None and (pod.oom_killed or pod.exit_code in _UNSAID):
        return _judge_exit(pod)
    return _judge_from_outside(pod)


def _judge_from_outside(pod: PodView) -> Verdict:
    """What an ending means that the trainer had no part in, or can't tell of: the kubelet's words come first."""
    node = f"node {pod.node}" if pod.node else "its node"
    reason, words = pod.ended_by or ("", "")
    told = f"{reason}: {words}" if words else reason
    if reason and pod.exit_code is None and not pod.running:
        return Verdict(Answer.RETRY_ELSEWHERE, NODE_REFUSED, f"{node} refused the pod: {told}")
    if pod.disruption or reason not in ("", _EVICTED):
        both = "; ".join(dict.fromkeys(text for text in (pod.disruption, told) if text))
        return Verdict(Answer.RETRY_FREE, DISRUPTED, f"the pod was taken from {node}: {both}", pod.result)
    if reason:
        # A lack of the node would be a disruption too: this is a limit of the pod's own.
        return Verdict(Answer.RETRY_COUNTED, "Evicted", f"the kubelet evicted the pod: {words} {_MORE_DISK}",
                       pod.result)
    if pod.exit_code is not None:
        return _judge_exit(pod)
    if pod.leaving_at and not pod.gone:
        return Verdict(Answer.RETRY_FREE, POD_LOST, f"{node} is silent: the trainer's pod should have ended long ago")
    return Verdict(Answer.RETRY_COUNTED, POD_LOST, _LOST)


def preempted(pod: PodView | None = None) -> Verdict:
    """A queue took its quota back: how the trainer ended matters only where another attempt would end likewise."""
    end = _judge_exit(pod) if pod and pod.exit_code is not None else None
    if end and end.answer in (Answer.FAIL, Answer.RETRY_SMALLER):
        return end
    return Verdict(Answer.RETRY_FREE, PREEMPTED, "the queue took back the quota that it had given the job (preempted)"
                   + (f": {end.message}" if end else ""), end.result if end else None)


def _judge_success(attempt: AttemptView) -> Verdict:
    result = next((pod.result for pod in attempt.pods if pod.result and pod.exit_code == ExitCode.OK), None)
    if result is None:
        return Verdict(Answer.RETRY_COUNTED, "ResultLost",
                       "the trainer ended well, but its result can't be read: the next attempt adopts what is "
                       "published")
    if result.outcome is Outcome.QUALITY_GATE:
        return Verdict(Answer.FAIL, result.outcome, result.message, result)
    return Verdict(Answer.SUCCEED, result.outcome, result.message, result)


def most_telling(attempt: AttemptView) -> PodView | None:
    """The pod whose ending explains an attempt's: when one fails, the others are only asked to stop."""
    def rank(pod: PodView) -> int:
        if pod.exit_code in _FINAL or pod.exit_code == ExitCode.OUT_OF_MEMORY or pod.oom_killed:
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
    code, result = pod.exit_code, pod.result
    assert code is not None
    if pod.oom_killed:
        return Verdict(Answer.FAIL, "HostOutOfMemory",
                       "the trainer needed more host memory than its pod has: write a larger compute.memory", result)
    if code not in _UNSAID:
        if result:
            return Verdict(Answer.RETRY_COUNTED, result.outcome, result.message, result)
        return Verdict(Answer.RETRY_COUNTED, "Killed" if code == KILLED else "UnknownExit",
                       f"the trainer ended with exit code {code}")
    known = ExitCode(code)
    said = result.message if result else _UNSAID[known]
    reason = str(result.outcome) if result else known.name.title().replace("_", "")
    if known is ExitCode.STOPPED:
        words = f" ({pod.disruption})" if pod.disruption else ""
        return Verdict(Answer.RETRY_FREE, reason, f"{said}{words}", result)
    if known is ExitCode.OUT_OF_MEMORY:
        return Verdict(Answer.RETRY_SMALLER, reason, said, result)
    return Verdict(Answer.FAIL, reason, said, result)


TRAINERS_OWN = frozenset({Outcome.BAD_CONFIG, Outcome.BAD_DATA, Outcome.MISSING_INPUT, Outcome.DIVERGED,
                          Outcome.QUALITY_GATE})
"""Failures of which the cure changes what is trained, so that no other job can go on from their checkpoints."""

UNSTARTED = frozenset({NODE_REFUSED, "ImagePullFailed", "ContainerConfigError", "StartTimeout"})
"""Endings of attempts whose trainer was never run: they are the node's, the registry's or a volume's."""


def judge_start(attempt: AttemptView, now: datetime, patience: timedelta, ran: bool = False) -> Verdict | None:
    """Whether an attempt that has a node will never start; None while there is hope.

    Args:
        attempt: the attempt.
        now: the time.
        patience: how long it may take with a node.
        ran: whether a trainer of the job has run before: then something has changed that will change again.
    """
    answer, then = (Answer.RETRY_ELSEWHERE, "") if ran else (Answer.FAIL, ", and apply the job again")
    for pod in attempt.present:
        if pod.running or pod.exit_code is not None or pod.scheduled_at is None:
            continue
        if now - pod.scheduled_at < patience:
            continue
        reason, words = pod.waiting or ("", "")
        if reason in _IMAGE:
            return Verdict(answer, "ImagePullFailed", f"the trainer's image can't be pulled: {words or reason}; "
                           "check the operator's trainerImage, its registry and imagePullSecrets")
        if reason in _CONTAINER:
            return Verdict(answer, "ContainerConfigError", f"the trainer's container can't start: "
                           f"{words or reason}; {_advice(words)}{then}")
        return Verdict(answer, "StartTimeout", f"the trainer's pod did not start in {patience}: "
                       f"{f'{reason}: {words}' if words else reason or 'the kubelet gives no reason'}; "
                       f"`kubectl describe pod {pod.name}` shows its volumes and events")
    return None


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
