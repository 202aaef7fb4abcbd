"""A job that has not started: refuse it, check it, or record its start before anything that costs is created. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
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
    if job.spec.run_policy.suspend and job.held and job.spec.run_policy.preflight is PreflightPolicy.REQUIRED:
        return _plan_held(observation, job.spec, settings, now)
    if job.spec.run_policy.suspend:
        report = ConditionReport(Phase.SUSPENDED, Reason.SUSPENDED, "runPolicy.suspend is true. Set it to false, and "
                                 "the job starts")
        return Plan(set_conditions(job.status, report, job.generation, now), remove_preflights(observation))
    if job.spec.run_policy.preflight is PreflightPolicy.SKIP:
        return _record_start(job, job.spec, None, settings, now)
    if (earlier := _earlier_check(job, job.spec, settings)) is not None:
        return _record_start(job, job.spec, earlier, settings, now)
    checked = plan_preflight(observation, job.spec, settings, now)
    if isinstance(checked, Plan):
        return checked
    if checked.verdict is PreflightVerdict.ALREADY_PUBLISHED:
        return _adopt_published(observation, job.spec, checked, settings, now)
    return _record_start(job, job.spec, _facts(checked, job.generation), settings, now)


def _plan_held(observation: Observation, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Plan:
    """What to do about a job that its experiment holds: check it, and keep what was found until its turn comes."""
    job = observation.job
    facts = _earlier_check(job, spec, settings)
    if facts is None:
        checked = plan_preflight(observation, spec, settings, now)
        if isinstance(checked, Plan):
            return checked
        if checked.verdict is PreflightVerdict.ALREADY_PUBLISHED:
            return _adopt_published(observation, spec, checked, settings, now)
        facts = _facts(checked, job.generation)
        cost = checked.estimate.cost if checked.estimate else None
        facts = replace(facts, record=facts.record.model_copy(update={
            "checked_hash": _hash_of_checked(spec), "cost": cost}))
    status = job.status.model_copy(update={"preflight": facts.record, "memory": _memory(facts, spec, settings)})
    report = ConditionReport(Phase.SUSPENDED, Reason.SUSPENDED, "the check before the start found no problem. The "
                             "experiment of the job starts it when its turn comes")
    return Plan(set_conditions(status, report, job.generation, now), remove_preflights(observation))


def _hash_of_checked(spec: FineTuneJobSpec) -> str:
    """Digest of the part of a spec that a check looks at."""
    content = spec.model_dump_json(exclude_none=True, exclude={"budget": {"max_cost", "max_duration"},
                                                               "run_policy": True})
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class _CheckedFacts:
    """What the start of a job takes from its check.

    Attributes:
        record: for the status.
        memory_bytes: estimated peak memory of one accelerator.
        cost: estimated cost.
    """

    record: PreflightStatus
    memory_bytes: int | None
    cost: Decimal | None


def _facts(checked: PreflightResult, generation: int) -> _CheckedFacts:
    estimate = checked.estimate
    record = PreflightStatus(generation=generation, model_revision=checked.model_revision, data_hash=checked.data_hash,
                             hours=estimate.hours if estimate else None, accelerator=checked.accelerator,
                             checkpoint_bytes=estimate.checkpoint_bytes if estimate else None)
    return _CheckedFacts(record, estimate.memory_bytes if estimate else None, estimate.cost if estimate else None)


def _earlier_check(job: JobView, spec: FineTuneJobSpec, settings: Settings) -> _CheckedFacts | None:
    """What a check found while the job was held; None if there was none, of another spec, or of another catalogue."""
    record = job.status.preflight
    if record is None or record.checked_hash is None or record.checked_hash != _hash_of_checked(spec):
        return None
    if record.accelerator and record.accelerator.name not in settings.accelerators:
        return None
    return _CheckedFacts(record.model_copy(update={"generation": job.generation}),
                         job.status.memory.estimated_bytes if job.status.memory else None, record.cost)


def _memory(facts: _CheckedFacts, spec: FineTuneJobSpec, settings: Settings) -> Memory | None:
    accelerator = settings.accelerator(_on_chosen(spec, facts.record).compute)
    total = int(accelerator.memory.value) if accelerator.memory else None
    return None if facts.memory_bytes is None else Memory(estimated_bytes=facts.memory_bytes, accelerator_bytes=total)


def _on_chosen(spec: FineTuneJobSpec, record: PreflightStatus | None) -> FineTuneJobSpec:
    """The spec with the accelerator that the check chose, if it chose one."""
    choice = record.accelerator if record else None
    return spec.on_accelerator(choice.name) if choice else spec


def _refuse(observation: Observation, message: str, now: datetime) -> Plan:
    job = observation.job
    report = ConditionReport(Phase.PENDING, Reason.INVALID_SPEC, message, valid=False)
    return Plan(set_conditions(job.status, report, job.generation, now), remove_preflights(observation))


def _record_start(job: JobView, spec: FineTuneJobSpec, facts: _CheckedFacts | None, settings: Settings,
                  now: datetime) -> Plan:
    status = _started_status(job, spec, facts, settings, now)
    report = ConditionReport(Phase.STARTING, Reason.STARTED, "the start is recorded. The first attempt is created next")
    return Plan(set_conditions(status, report, job.generation, now))


def _adopt_published(observation: Observation, spec: FineTuneJobSpec, checked: PreflightResult, settings: Settings,
                     now: datetime) -> Plan:
    """End the job at once with the result that the check found, as the run ended that published it."""
    job, published = observation.job, checked.published
    status = _started_status(job, spec, _facts(checked, job.generation), settings, now).model_copy(update={
        "completion_time": now, "adapter": published.adapter if published else None,
        "evaluation": published.evaluation if published else None})
    # A result that missed its gate does not pass it because somebody applies the job again.
    phase = Phase.FAILED if checked.reason is Outcome.QUALITY_GATE else Phase.SUCCEEDED
    reason = checked.reason if checked.reason in _ADOPTED else Outcome.ALREADY_PUBLISHED
    report = ConditionReport(phase, reason, checked.message)
    return Plan(set_conditions(status, report, job.generation, now), remove_preflights(observation))


def _started_status(job: JobView, spec: FineTuneJobSpec, facts: _CheckedFacts | None, settings: Settings,
                    now: datetime) -> FineTuneJobStatus:
    """The status with everything that stays as it is at the start: image, price, model commit, digest of the spec."""
    chosen = _on_chosen(spec, facts.record if facts else None)
    return job.status.model_copy(update={
        "start_time": now, "started_generation": job.generation,
        "spec_hash": spec_hash(resolve_defaults(spec)), "image": settings.image_for(spec.engine),
        "retries": Retries(), "preflight": facts.record if facts else None,
        "memory": _memory(facts, spec, settings) if facts else None,
        "cost": Cost(spent=Decimal(0), projected=facts.cost if facts else None, currency=settings.currency,
                     hourly_rate=price_per_accelerator_hour(chosen, settings.accelerator(chosen.compute))),
    })
