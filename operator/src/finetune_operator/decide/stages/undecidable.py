"""A job about which the operator cannot decide: what its conditions say, and how its budget is still enforced. Pure.

Every pass ends with a sentence in the conditions of its job, whatever goes wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, Phase

from finetune_operator.decide.actions import Action, Plan, delete_job
from finetune_operator.decide.budget import overdue_reason, with_limit_reached
from finetune_operator.decide.conditions import ConditionReport, events_of, set_conditions
from finetune_operator.decide.cost import accelerator_count
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings

_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class EnforcedBudget:
    """A status with the time since when a limit is reached, and the deletion of attempts that hang."""

    status: FineTuneJobStatus
    actions: tuple[Action, ...] = ()


def plan_after_error(observation: Observation, settings: Settings, now: datetime, error: Exception) -> Plan:
    """The plan for a pass in which the decision raised. The queue tries again with back-off."""
    job = observation.job
    if job.deleting or job.status.completion_time is not None:
        return Plan(job.status)  # How the job ended is worth more than this error.
    enforced = enforce_budget(observation, settings, now)
    status = enforced.status
    message = (f"the operator cannot decide about this job ({type(error).__name__}: {str(error)[:_SHOWN_CHARACTERS]}). "
               "It tries again at least every minute, and a running attempt continues. Report this error with the "
               "operator's log")
    report = ConditionReport(status.phase or Phase.PENDING, Reason.INTERNAL, message)
    status = set_conditions(status, report, job.generation, now.replace(microsecond=0))
    return Plan(status, enforced.actions, events=events_of(job.status, status))


def plan_after_refusal(job: JobView, plan: Plan, refusal: str, now: datetime) -> Plan:
    """The plan after the apiserver refused an object that a plan creates. The queue tries the same again.

    Args:
        job: the job.
        plan: what was decided.
        refusal: the apiserver's message.
        now: the time.
    """
    if plan.status.completion_time is not None:
        return Plan(plan.status, events=plan.events)  # How the job ended is worth more than what remains of it.
    # The rest of the decided status holds: how an attempt ended, and since when a limit is reached.
    report = ConditionReport(plan.status.phase or Phase.PENDING, Reason.CANNOT_START,
                             f"the apiserver refuses an object that the job needs: {refusal}")
    status = set_conditions(plan.status, report, job.generation, now.replace(microsecond=0))
    return Plan(status, events=events_of(job.status, status))


def report_unreadable_spec(observation: Observation, settings: Settings, now: datetime) -> Plan:
    """The plan for a started job whose spec cannot be read: no attempt is created."""
    job, enforced = observation.job, enforce_budget(observation, settings, now)
    report = ConditionReport(enforced.status.phase or Phase.PENDING, Reason.INVALID_SPEC,
                             job.spec_error or "the operator cannot read the spec", valid=False)
    return Plan(set_conditions(enforced.status, report, job.generation, now), enforced.actions)


def known_accelerator_count(job: JobView, settings: Settings) -> int:
    """How many accelerators a job holds if its spec cannot be read: 1 if its compute section cannot be read either."""
    if job.limits is None:
        return 1
    compute = job.limits[1]
    return accelerator_count(compute, settings.accelerator(compute))


def enforce_budget(observation: Observation, settings: Settings, now: datetime) -> EnforcedBudget:
    """The budget of a job that cannot be decided about, if the budget section can be read."""
    job = observation.job
    if job.limits is None:
        return EnforcedBudget(job.status)
    budget, accelerators = job.limits[0], known_accelerator_count(job, settings)
    try:
        status = with_limit_reached(budget, job.status, accelerators, now)
        overdue = overdue_reason(budget, status, accelerators, now)
    except (ArithmeticError, ValueError, TypeError):
        return EnforcedBudget(job.status)
    running = (one for one in observation.attempts if not one.finished and not one.deleting)
    return EnforcedBudget(status, tuple(delete_job(one.name) for one in running) if overdue else ())
