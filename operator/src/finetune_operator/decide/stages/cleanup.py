"""After the end of a job: its attempts stop, their last cost is added, and its children are deleted in time. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus

from finetune_operator.decide.actions import Delete, Plan, delete_job
from finetune_operator.decide.attempts.records import with_node_releases
from finetune_operator.decide.conditions import with_observed_generation
from finetune_operator.decide.cost import accelerator_count, with_amount_spent
from finetune_operator.decide.preflight.removal import remove_preflights
from finetune_operator.names import API_VERSIONS
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings


def plan_cleanup(observation: Observation, settings: Settings, completion_time: datetime, now: datetime) -> Plan:
    """What to do about a finished job: stop what still runs; delete its children after ttlSecondsAfterFinished."""
    status = with_observed_generation(_with_last_cost(observation, settings, now), observation.job.generation)
    stop = (*remove_preflights(observation), *(
        delete_job(one.name) for one in observation.attempts if not one.finished and not one.deleting))
    spec = observation.job.spec
    ttl = spec.run_policy.ttl_seconds_after_finished if spec else None
    children = _children(observation)
    if ttl is None or not (observation.attempts or children):
        return Plan(status, stop)
    remaining = completion_time + timedelta(seconds=ttl) - now
    if remaining > timedelta():
        return Plan(status, stop, requeue_after=remaining)
    if observation.attempts and all(attempt.deleting for attempt in observation.attempts):
        # The other children were deleted with the Jobs. If one is left, it is deleted when the Jobs are gone.
        return Plan(status, stop)
    jobs = (delete_job(attempt.name) for attempt in observation.attempts if not attempt.deleting)
    return Plan(status, (*stop, *jobs, *(Delete(API_VERSIONS[kind], kind, name) for kind, name in children)))


def _children(observation: Observation) -> list[tuple[str, str]]:
    """Kind and name of every child that is no Job and no pod."""
    applied = {(kind, name) for kind, name, _ in observation.applied_children}
    return sorted(applied | {("ConfigMap", name) for name in observation.config_maps})


def _with_last_cost(observation: Observation, settings: Settings, now: datetime) -> FineTuneJobStatus:
    """The status with what the last attempt cost until its pod was gone."""
    before, spec = observation.job.status, observation.job.spec
    status = with_node_releases(observation, before, now)
    if status.attempts == before.attempts or spec is None:
        return status
    accelerator = settings.accelerator(spec.compute)
    return with_amount_spent(status, accelerator_count(spec.compute, accelerator), None)
