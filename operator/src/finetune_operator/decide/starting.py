"""Before the start: what can't be run is refused; the start is recorded before anything that costs is made. Pure."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from finetune_api.messages import Outcome, PreflightResult, PreflightVerdict
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import PreflightPolicy
from finetune_api.status import Cost, Memory, Phase, Retries

from finetune_operator.decide import admission, preflight
from finetune_operator.decide.actions import Plan
from finetune_operator.decide.conditions import Told, tell
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings

_ADOPTED = (Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY)


def before_start(seen: Observation, settings: Settings, now: datetime) -> Plan:
    """Refuse what can't be run; else record the start, before anything that costs is made."""
    job, status = seen.job, seen.job.status
    if job.spec is None:
        return _refused(seen, job.spec_error or "the spec can't be read", now)
    if found := admission.problems(job.spec, settings):
        return _refused(seen, "; ".join(found), now)
    if job.spec.run_policy.suspend:
        told = Told(Phase.SUSPENDED, "Suspended", "runPolicy.suspend is true: nothing is started until it is false")
        return Plan(tell(status, told, job.generation, now), preflight.remove(seen))
    if job.spec.run_policy.preflight is PreflightPolicy.SKIP:
        return _start(seen, job.spec, None, settings, now)
    checked = preflight.decide(seen, job.spec, settings, now)
    return _start(seen, job.spec, checked, settings, now) if isinstance(checked, PreflightResult) else checked


def _start(seen: Observation, spec: FineTuneJobSpec, checked: PreflightResult | None, settings: Settings, now: datetime
           ) -> Plan:
    """Record the start, with what preflight has found; or, where it found the result, the end."""
    job = seen.job
    accelerator = settings.accelerators[spec.compute.accelerator]
    estimate = checked.estimate if checked else None
    memory = int(accelerator.memory.value) if accelerator.memory else None
    started = job.status.model_copy(update={
        "start_time": now, "started_generation": job.generation,
        "spec_hash": spec_hash(resolve_defaults(spec)), "image": settings.image_for(spec.engine),
        "retries": Retries(), "preflight": preflight.found(checked, job.generation),
        "memory": Memory(estimated_bytes=estimate.memory_bytes, accelerator_bytes=memory) if estimate else None,
        "cost": Cost(spent=Decimal(0), projected=estimate.cost if estimate else None, currency=settings.currency,
                     hourly_rate=admission.price_of(spec, accelerator)),
    })
    if checked and checked.verdict is PreflightVerdict.ALREADY_PUBLISHED:
        there = checked.published
        done = started.model_copy(update={"completion_time": now, "adapter": there.adapter if there else None,
                                          "evaluation": there.evaluation if there else None})
        # As the run ended that published it: what missed its gate then has not passed it by being applied again.
        phase = Phase.FAILED if checked.reason is Outcome.QUALITY_GATE else Phase.SUCCEEDED
        reason = checked.reason if checked.reason in _ADOPTED else Outcome.ALREADY_PUBLISHED
        told = Told(phase, reason, checked.message)
        return Plan(tell(done, told, job.generation, now), preflight.remove(seen))
    told = Told(Phase.STARTING, "Started", "the start is recorded; the first attempt is being made")
    return Plan(tell(started, told, job.generation, now))


def _refused(seen: Observation, words: str, now: datetime) -> Plan:
    told = Told(Phase.PENDING, "InvalidSpec", words, valid=False)
    return Plan(tell(seen.job.status, told, seen.job.generation, now), preflight.remove(seen))
