"""The end of a job: what its status records. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.failures import failure_class
from finetune_api.messages import Result
from finetune_api.reasons import Outcome, Reason
from finetune_api.status import FineTuneJobStatus, Memory, Phase

from finetune_operator.decide.actions import Plan
from finetune_operator.decide.attempts.records import newest_checkpoint_step
from finetune_operator.decide.attempts.verdict import AttemptVerdict
from finetune_operator.decide.conditions import ConditionReport, set_conditions
from finetune_operator.decide.cost import with_amount_spent
from finetune_operator.decide.stages.started_job import StartedJob
from finetune_operator.observed.job import JobView


@dataclass(frozen=True)
class JobEnd:
    """How a job ends.

    Attributes:
        phase: Succeeded or Failed.
        result: what the trainer reported; None if an end has no result.
    """

    phase: Phase
    reason: Reason | Outcome
    message: str
    result: Result | None = None


def job_failed(reason: Reason, message: str) -> JobEnd:
    """The end of a job that fails without a result."""
    return JobEnd(Phase.FAILED, reason, message)


def end_of(verdict: AttemptVerdict, message: str | None = None) -> JobEnd:
    """The end of a job by the end of its last attempt, with another message if one is given."""
    phase = Phase.SUCCEEDED if verdict.retry is None else Phase.FAILED
    return JobEnd(phase, verdict.reason, message or verdict.message, verdict.result)


def finish_started(started: StartedJob, end: JobEnd) -> Plan:
    """The plan that records the end of a started job."""
    return finish_job(started.job, started.status, end, started.accelerator_count, started.now)


def finish_job(job: JobView, status: FineTuneJobStatus, end: JobEnd, accelerators: int, now: datetime) -> Plan:
    """The plan that records the end of a job, with everything that is known about it.

    Args:
        job: the job.
        status: its status with the attempts as they are now.
        end: how it ends.
        accelerators: how many accelerators it held.
        now: the time.
    """
    # A node that is still held counts until now. The rest is added once its pod has ended.
    status = with_amount_spent(status, accelerators, now)
    update: dict[str, Any] = {"completion_time": now, "stage": None}
    if end.result is not None:
        update |= _result_fields(status, end.result)
    if status.cost:
        update["cost"] = status.cost.model_copy(update={"projected": None, "used_up_at": None})
    message = end.message + (_how_to_resume(job.name) if _can_be_resumed(status, end) else "")
    report = ConditionReport(end.phase, end.reason, message)
    return Plan(set_conditions(status.model_copy(update=update), report, job.generation, now))


def _result_fields(status: FineTuneJobStatus, result: Result) -> dict[str, Any]:
    fields: dict[str, Any] = {"evaluation": result.evaluation, "adapter": result.adapter,
                              "memory": merged_memory(status.memory, result.memory)}
    if status.progress and result.total_steps:
        fields["progress"] = status.progress.model_copy(update={
            "step": result.step, "total_steps": result.total_steps,
            "percent": 100 * result.step // result.total_steps, "estimated_completion_time": None})
    return fields


def merged_memory(known: Memory | None, reported: Memory | None) -> Memory | None:
    """What is known about the memory, with what the trainer reports."""
    if known is None or reported is None:
        return known or reported
    return known.model_copy(update={name: value for name in type(reported).model_fields
                                    if (value := getattr(reported, name)) is not None})


def _can_be_resumed(status: FineTuneJobStatus, end: JobEnd) -> bool:
    """Whether another job can resume from the checkpoints: not if the cure changes what is trained."""
    known = failure_class(end.reason)
    changes_training = known is not None and known.changes_training
    return end.phase is Phase.FAILED and not changes_training and newest_checkpoint_step(status.attempts) > 0


def _how_to_resume(name: str) -> str:
    return (f". The checkpoints are kept: a new job with runPolicy.resumeFrom: {name} resumes from them if only "
            "compute, budget and runPolicy differ")
