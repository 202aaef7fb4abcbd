"""What the end of an attempt means: from pod state, exit code and termination message, never from logs. Pure.

The failure classes of finetune_api say which attempts are retried; docs/explanation/operator.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.exit_codes import ExitCode
from finetune_api.failures import FailureClass, Retry, failure_class, failure_class_of_exit_code
from finetune_api.messages import Result
from finetune_api.reasons import Outcome, Reason

from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.pod import PodView

KILLED = 137
_POD_LOST = "the trainer's pod is gone and left no exit code (its node was lost, or the pod was deleted by force)"
_MORE_DISK = ("For more disk, an administrator raises ephemeralStorage of the accelerator in the operator's settings "
              "(preflight.ephemeralStorage for a check), or keeps models on a claim (modelCacheClaim)")


@dataclass(frozen=True)
class AttemptVerdict:
    """What the end of an attempt means.

    Attributes:
        reason: one word, for conditions and attempts.
        message: a sentence that says what to do.
        retry: whether another attempt follows; None if the attempt succeeded.
        result: what the trainer reported; None if that cannot be read.
    """

    reason: Reason | Outcome
    message: str
    retry: Retry | None
    result: Result | None = None


def failed_verdict(reason: Reason, message: str, result: Result | None = None, retry: Retry | None = None
                   ) -> AttemptVerdict:
    """The verdict on a failure; `retry` is only for an end that the failure class of its reason does not cover."""
    return AttemptVerdict(reason, message, retry or retry_after(reason), result)


def retry_after(reason: str, trainer_has_run: bool = True) -> Retry:
    """Whether another attempt follows one that failed, by the failure class of its reason; counted if it has none.

    Args:
        reason: why the attempt ended.
        trainer_has_run: whether a trainer of the job has run in any attempt.
    """
    known = failure_class(reason)
    if known is None:
        return Retry.COUNTED
    return known.retry if trainer_has_run else known.first_start or known.retry


def judge_end(attempt: AttemptView) -> AttemptVerdict:
    """What the end of a finished attempt means."""
    if attempt.complete:
        return _judge_success(attempt)
    if attempt.pods and all(pod.exit_code == ExitCode.OK for pod in attempt.pods):
        # Sidecars still run, or the Job was deleted just before it was Complete.
        return _judge_success(attempt)
    pod = explaining_pod(attempt)
    if pod and pod.deadline_exceeded and not _is_final(pod):
        return failed_verdict(Reason.DEADLINE_EXCEEDED, "two hours after budget.maxDuration the trainer still ran, and "
                              "the kubelet stopped it", pod.result)
    if attempt.suspended and not attempt.finished:
        return preempted_verdict(pod)
    if pod is None:
        return failed_verdict(Reason.POD_LOST, _POD_LOST)
    if pod.exit_code is not None and (pod.oom_killed or _reported_failure(pod.exit_code)):
        return _judge_exit_code(pod, pod.exit_code)
    return _judge_pod_state(pod)


def _reported_failure(code: int) -> FailureClass | None:
    """The failure that the trainer reports by its exit code; None for 0, and for 1, which other programs use too."""
    return None if code == ExitCode.INTERNAL else failure_class_of_exit_code(code)


def _is_final(pod: PodView) -> bool:
    """Whether the trainer reports by its exit code that no further attempt can help."""
    known = _reported_failure(pod.exit_code) if pod.exit_code is not None else None
    return known is not None and known.retry is Retry.NEVER


def _judge_success(attempt: AttemptView) -> AttemptVerdict:
    result = next((pod.result for pod in attempt.pods if pod.result and pod.exit_code == ExitCode.OK), None)
    if result is None:
        return failed_verdict(Reason.RESULT_LOST, "the trainer succeeded, but the operator cannot read its result. The "
                              "next attempt adopts what is published")
    retry = Retry.NEVER if result.outcome is Outcome.QUALITY_GATE else None
    return AttemptVerdict(result.outcome, result.message, retry, result)


def _judge_pod_state(pod: PodView) -> AttemptVerdict:
    """What an end means that the trainer did not cause or could not report: the kubelet's words come first."""
    node = f"node {pod.node}" if pod.node else "its node"
    reason, words = pod.kubelet_failure or ("", "")
    quote = f"{reason}: {words}" if words else reason
    if reason and pod.exit_code is None and not pod.running:
        return failed_verdict(Reason.NODE_REFUSED, f"{node} refused the pod: {quote}")
    if pod.disruption or reason not in ("", Reason.EVICTED):
        quotes = "; ".join(dict.fromkeys(text for text in (pod.disruption, quote) if text))
        return failed_verdict(Reason.DISRUPTED, f"the pod was removed from {node}: {quotes}", pod.result)
    if reason:
        # An eviction for lack of the node's resources also sets a disruption: this is a limit of the pod's own.
        return failed_verdict(Reason.EVICTED, f"the kubelet evicted the pod: {words} {_MORE_DISK}", pod.result)
    if pod.exit_code is not None:
        return _judge_exit_code(pod, pod.exit_code)
    if pod.deletion_deadline and not pod.deleted:
        return failed_verdict(Reason.POD_LOST, f"{node} does not answer: the trainer's pod should have ended long ago",
                              retry=Retry.FREE)
    return failed_verdict(Reason.POD_LOST, _POD_LOST)


def _judge_exit_code(pod: PodView, code: int) -> AttemptVerdict:
    if pod.oom_killed:
        return failed_verdict(Reason.HOST_OUT_OF_MEMORY, "the trainer needed more host memory than its pod's limit. "
                              "Raise compute.memory", pod.result)
    known, result = _reported_failure(code), pod.result
    if known is None:
        if result:
            return AttemptVerdict(result.outcome, result.message, Retry.COUNTED, result)
        reason = Reason.KILLED if code == KILLED else Reason.UNKNOWN_EXIT
        return failed_verdict(reason, f"the trainer ended with exit code {code}")
    message = result.message if result else known.message
    if code == ExitCode.STOPPED and pod.disruption:
        message += f" ({pod.disruption})"
    return AttemptVerdict(result.outcome if result else Reason(known.reason), message, known.retry, result)


def preempted_verdict(pod: PodView | None = None) -> AttemptVerdict:
    """The verdict after a queue took its quota back.

    The trainer's own end counts only if another attempt would end in the same way.
    """
    end = _judge_exit_code(pod, pod.exit_code) if pod and pod.exit_code is not None else None
    if end and end.retry in (Retry.NEVER, Retry.SMALLER_PLAN):
        return end
    message = "the queue took back the quota that it had given the job (preempted)"
    if end is None:
        return failed_verdict(Reason.PREEMPTED, message)
    return failed_verdict(Reason.PREEMPTED, f"{message}: {end.message}", end.result)


def explaining_pod(attempt: AttemptView) -> PodView | None:
    """The pod whose end explains the attempt's: if one fails, the others are only asked to stop."""
    def rank(pod: PodView) -> int:
        if _is_final(pod) or pod.oom_killed or pod.exit_code in (ExitCode.OUT_OF_MEMORY, ExitCode.NO_ACCELERATOR):
            return 0
        if pod.kubelet_failure or pod.disruption:
            return 1  # The other pods ended because they missed this one.
        if pod.exit_code is None:
            return 4
        if pod.exit_code == ExitCode.OK:
            return 5
        return 3 if pod.exit_code == ExitCode.STOPPED else 2

    return min((pod for pod in attempt.pods if pod.scheduled_at or pod.node), key=rank, default=None)
