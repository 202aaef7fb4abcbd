"""What follows from the end of an attempt: another attempt, or the end of the job. Pure."""

from __future__ import annotations

from datetime import timedelta

from finetune_api.failures import Retry
from finetune_api.reasons import Reason
from finetune_api.spec.training import Toggle
from finetune_api.status import Phase

from finetune_operator.decide.actions import Plan
from finetune_operator.decide.attempts.retry_counts import FREE_RETRIES
from finetune_operator.decide.attempts.verdict import AttemptVerdict
from finetune_operator.decide.conditions import ConditionReport
from finetune_operator.decide.stages.finish import JobEnd, end_of, finish_started
from finetune_operator.decide.stages.next_attempt import plan_next_attempt
from finetune_operator.decide.stages.started_job import StartedJob, plan_reporting


def plan_after_attempt(started: StartedJob, verdict: AttemptVerdict) -> Plan:
    """What to do after the end of an attempt."""
    end = _end_of_job(started, verdict)
    if end is not None:
        return finish_started(started, end)
    if started.spec.run_policy.suspend:
        return plan_next_attempt(started)
    message = f"{verdict.message.rstrip('.')}. The next attempt resumes from the last checkpoint"
    return plan_reporting(started, ConditionReport(Phase.STARTING, Reason.RETRYING, message), requeue_after=timedelta())


def _end_of_job(started: StartedJob, verdict: AttemptVerdict) -> JobEnd | None:
    """How the job ends; None if another attempt follows."""
    match verdict.retry:
        case None | Retry.NEVER:
            return end_of(verdict)
        case Retry.SMALLER_PLAN:
            return _end_without_memory(started, verdict)
        case Retry.FREE:
            return _end_without_progress(started, verdict)
        case Retry.COUNTED:
            return _end_of_retries(started, verdict)
        case Retry.ELSEWHERE:
            return None


def _end_without_memory(started: StartedJob, verdict: AttemptVerdict) -> JobEnd | None:
    training = started.spec.training
    is_smallest = training.micro_batch_size == 1 and training.gradient_checkpointing is Toggle.ENABLED
    earlier = [one for one in started.status.attempts if one.reason == Reason.OUT_OF_MEMORY]
    if len(earlier) <= 1 and not is_smallest:
        return None
    return end_of(verdict, f"{verdict.message}. Nothing smaller is possible on this accelerator: lower "
                  "training.maxLength, quantize (method.quantization: nf4), or choose a larger compute.accelerator")


def _end_without_progress(started: StartedJob, verdict: AttemptVerdict) -> JobEnd | None:
    times = started.retries.without_progress
    if times <= FREE_RETRIES:
        return None
    return JobEnd(Phase.FAILED, Reason.NO_PROGRESS,
                  f"the job was stopped {times} times in a row before it could write a newer checkpoint. Lower "
                  "training.checkpointEvery, or remove compute.spot", verdict.result)


def _end_of_retries(started: StartedJob, verdict: AttemptVerdict) -> JobEnd | None:
    limit = started.spec.run_policy.backoff_limit
    if started.retries.counted <= limit:
        return None
    return end_of(verdict, f"{verdict.message} (retried {limit} times, which is runPolicy.backoffLimit)")
