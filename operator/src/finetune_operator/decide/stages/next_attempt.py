"""No attempt is under way: create the next one, wait until it may start, or end the job. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from finetune_api.reasons import Reason
from finetune_api.spec.training import Toggle
from finetune_api.status import LAST_NUMBER, Phase
from finetune_api.values.money import Price

from finetune_operator.decide.actions import Create, Plan, delete_job
from finetune_operator.decide.attempts.end_time import has_ended
from finetune_operator.decide.attempts.retry_delay import avoided_nodes, next_attempt_at
from finetune_operator.decide.budget import budget_spent, pod_deadline
from finetune_operator.decide.conditions import ConditionReport
from finetune_operator.decide.stages.finish import finish_started, job_failed
from finetune_operator.decide.stages.started_job import StartedJob, plan_reporting
from finetune_operator.decide.stages.undecidable import report_unreadable_spec
from finetune_operator.decide.trainer_limits import trainer_limits
from finetune_operator.manifests.attempt_request import AttemptRequest
from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.config_maps import limits_map, run_map
from finetune_operator.manifests.pod.node_affinity import avoiding_nodes
from finetune_operator.manifests.run_config import frozen_facts, run_config, run_text
from finetune_operator.manifests.service import rendezvous_service
from finetune_operator.manifests.trainer_job import attempt_job
from finetune_operator.names import attempt_name
from finetune_operator.observed.attempt import AttemptView


def plan_next_attempt(started: StartedJob) -> Plan:
    """What to do about a started job of which no attempt is under way."""
    remaining = _remaining_attempts(started)
    if remaining:
        return Plan(started.status, tuple(delete_job(one.name) for one in remaining if not one.deleting))
    if started.spec.run_policy.suspend:
        return plan_reporting(started, ConditionReport(
            Phase.SUSPENDED, Reason.SUSPENDED,
            "runPolicy.suspend is true. Set it to false, and the job resumes from its last checkpoint"))
    if why := budget_spent(started.spec.budget, started.status, started.accelerator_count):
        return finish_started(started, job_failed(Reason.BUDGET_SPENT, why))
    last = started.status.attempts[-1] if started.status.attempts else None
    wait_until = next_attempt_at(last, started.retries, started.settings.retry_delay)
    if wait_until is not None and started.now < wait_until:
        return Plan(started.status, requeue_after=wait_until - started.now)
    number = _next_number(started)
    if number > LAST_NUMBER:
        return finish_started(started, job_failed(
            Reason.TOO_MANY_ATTEMPTS, "no further attempt can be numbered: the Kubernetes Job "
            f"{attempt_name(started.job.name, number - 1)} has the highest number ({LAST_NUMBER}). Delete this "
            "FineTuneJob and that Job, then create the FineTuneJob again"))
    return _prepare_attempt(started, number)


def _remaining_attempts(started: StartedJob) -> list[AttemptView]:
    """The attempts whose Jobs must go first: Kueue could start the Job of a preempted attempt again, and it keeps the
    quota for that of a lost pod."""
    return [one for one in started.observation.attempts if not one.finished and not (
        one.deleting and has_ended(one, started.status, started.now))]


def _next_number(started: StartedJob) -> int:
    numbers = [*(one.number for one in started.status.attempts),
               *(one.number for one in started.observation.attempts), *started.observation.taken_numbers]
    return max(numbers, default=0) + 1


def _prepare_attempt(started: StartedJob, number: int) -> Plan:
    """Create an attempt, after what it needs exists and is known: its Service, and an earlier run configuration."""
    observation, several_nodes = started.observation, started.spec.compute.nodes > 1
    address = observation.service_addresses.get(attempt_name(started.job.name, number)) if several_nodes else None
    if several_nodes and address is None:
        # The address of the Service is part of the pods.
        service = Create(rendezvous_service(started.job, number))
        return Plan(started.status, (service,), requeue_after=timedelta())
    if (name := started.spec.compute.accelerator) not in started.settings.accelerators:
        return plan_reporting(started, ConditionReport(
            Phase.STARTING, Reason.CANNOT_START, f"compute.accelerator {name} is no longer in the operator's catalogue "
            "(settings.accelerators). The next attempt waits until an administrator adds it again"))
    if number > 1 and observation.earlier_run is None:
        return Plan(started.status, needs_earlier_run=True)
    if started.job.spec_error and not observation.earlier_run:
        return report_unreadable_spec(observation, started.settings, started.now)
    return _create_attempt(started, number, address)


def _create_attempt(started: StartedJob, number: int, rendezvous_address: str | None) -> Plan:
    job, spec, settings = started.job, started.spec, started.settings
    image = started.status.image or settings.image_for(spec.engine)
    request = AttemptRequest(job, spec, number, image, started.accelerator, settings, rendezvous_address,
                             pod_deadline(spec.budget))
    avoided = avoided_nodes(started.status, settings.retry_delay, started.now)
    manifests = (run_map(job, number, _run_json(started, request)), attempt_limits(started, number),
                 avoiding_nodes(attempt_job(request), avoided))
    actions = tuple(map(Create, manifests))
    if started.status.phase is Phase.STARTING:
        return Plan(started.status, actions)  # The conditions report it already: this saves a write of the status.
    starting = ConditionReport(Phase.STARTING, Reason.STARTING, f"attempt {number} is created")
    return plan_reporting(started, starting, actions)


def _run_json(started: StartedJob, request: AttemptRequest) -> str:
    """An attempt's run.json, with the smallest memory plan if an earlier attempt ran out of accelerator memory."""
    smallest_memory = any(one.reason == Reason.OUT_OF_MEMORY for one in started.status.attempts)
    spec = request.spec
    if smallest_memory:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={
            "micro_batch_size": 1, "gradient_checkpointing": Toggle.ENABLED})})
    facts = frozen_facts(started.status, Price(started.accelerator.hourly_price, started.settings.currency))
    config = run_config(replace(request, spec=spec), facts)
    return run_text(config, dict(started.observation.earlier_run or {}), smallest_memory)


def attempt_limits(started: StartedJob, number: int) -> Manifest:
    """The ConfigMap with the limits of an attempt, which its trainer reads again at every step."""
    limits = trainer_limits(started.spec.budget, started.status, started.accelerator_count)
    return limits_map(started.job, number, limits)
