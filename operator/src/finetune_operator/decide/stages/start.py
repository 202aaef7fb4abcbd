"""A job that has not started: refuse it, check it, or record its start before anything that costs is created. Pure."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from finetune_api.messages import PreflightResult, PreflightVerdict
from finetune_api.reasons import Outcome, Reason
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import PreflightPolicy
from finetune_api.status import Cost, FineTuneJobStatus, Memory, Phase, PreflightStatus, Retries

from finetune_operator.decide.actions import Plan
from finetune_operator.decide.admission import spec_problems
from finetune_operator.decide.conditions import ConditionReport, set_conditions
from finetune_operator.decide.cost import price_per_accelerator_hour
from finetune_operator.decide.preflight.plan import plan_preflight
from finetune_operator.decide.preflight.removal import remove_preflights
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings

_ADOPTED = (Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY)
"""Outcomes of a published result that are also the reason of the job that adopts it."""


def plan_start(observation: Observation, settings: Settings, now: datetime) -> Plan:
    """What to do about a job that has not started."""
    job = observation.job
    if job.spec is None:
        return _refuse(observation, job.spec_error or "the operator cannot read the spec", now)
    if problems := spec_problems(job.spec, settings):
        return _refuse(observation, "; ".join(problems), now)
    if job.spec.run_policy.suspend:
        report = ConditionReport(Phase.SUSPENDED, Reason.SUSPENDED, "runPolicy.suspend is true. Set it to false, and "
                                 "the job starts")
        return Plan(set_conditions(job.status, report, job.generation, now), remove_preflights(observation))
    if job.spec.run_policy.preflight is PreflightPolicy.SKIP:
        return _record_start(job, job.spec, None, settings, now)
    checked = plan_preflight(observation, job.spec, settings, now)
    if isinstance(checked, Plan):
        return checked
    if checked.verdict is PreflightVerdict.ALREADY_PUBLISHED:
        return _adopt_published(observation, job.spec, checked, settings, now)
    return _record_start(job, job.spec, checked, settings, now)


def _refuse(observation: Observation, message: str, now: datetime) -> Plan:
    job = observation.job
    report = ConditionReport(Phase.PENDING, Reason.INVALID_SPEC, message, valid=False)
    return Plan(set_conditions(job.status, report, job.generation, now), remove_preflights(observation))


def _record_start(job: JobView, spec: FineTuneJobSpec, checked: PreflightResult | None, settings: Settings,
                  now: datetime) -> Plan:
    status = _started_status(job, spec, checked, settings, now)
    report = ConditionReport(Phase.STARTING, Reason.STARTED, "the start is recorded. The first attempt is created next")
    return Plan(set_conditions(status, report, job.generation, now))


def _adopt_published(observation: Observation, spec: FineTuneJobSpec, checked: PreflightResult, settings: Settings,
                     now: datetime) -> Plan:
    """End the job at once with the result that the check found, as the run ended that published it."""
    job, published = observation.job, checked.published
    status = _started_status(job, spec, checked, settings, now).model_copy(update={
        "completion_time": now, "adapter": published.adapter if published else None,
        "evaluation": published.evaluation if published else None})
    # A result that missed its gate does not pass it because somebody applies the job again.
    phase = Phase.FAILED if checked.reason is Outcome.QUALITY_GATE else Phase.SUCCEEDED
    reason = checked.reason if checked.reason in _ADOPTED else Outcome.ALREADY_PUBLISHED
    report = ConditionReport(phase, reason, checked.message)
    return Plan(set_conditions(status, report, job.generation, now), remove_preflights(observation))


def _started_status(job: JobView, spec: FineTuneJobSpec, checked: PreflightResult | None, settings: Settings,
                    now: datetime) -> FineTuneJobStatus:
    """The status with everything that stays as it is at the start: image, price, model commit, digest of the spec."""
    accelerator = settings.accelerators[spec.compute.accelerator]
    estimate = checked.estimate if checked else None
    memory_bytes = int(accelerator.memory.value) if accelerator.memory else None
    return job.status.model_copy(update={
        "start_time": now, "started_generation": job.generation,
        "spec_hash": spec_hash(resolve_defaults(spec)), "image": settings.image_for(spec.engine),
        "retries": Retries(), "preflight": _preflight_record(checked, job.generation) if checked else None,
        "memory": Memory(estimated_bytes=estimate.memory_bytes, accelerator_bytes=memory_bytes) if estimate else None,
        "cost": Cost(spent=Decimal(0), projected=estimate.cost if estimate else None, currency=settings.currency,
                     hourly_rate=price_per_accelerator_hour(spec, accelerator)),
    })


def _preflight_record(checked: PreflightResult, generation: int) -> PreflightStatus:
    estimate = checked.estimate
    return PreflightStatus(generation=generation, model_revision=checked.model_revision, data_hash=checked.data_hash,
                           hours=estimate.hours if estimate else None,
                           checkpoint_bytes=estimate.checkpoint_bytes if estimate else None)
