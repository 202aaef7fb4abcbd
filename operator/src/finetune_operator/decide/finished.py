"""After the end of a job: nothing of it runs on, what that still cost is added, and its children go in time. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus

from finetune_operator.decide import accounting, admission, attempts, preflight
from finetune_operator.decide.actions import Delete, Plan, delete_job
from finetune_operator.decide.conditions import looked_at
from finetune_operator.names import API_VERSIONS
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Accelerator, Settings


def clean_up(seen: Observation, settings: Settings, completed: datetime, now: datetime) -> Plan:
    """A finished job: nothing of it runs on; its children go when their time has come."""
    status = looked_at(_settled(seen, settings, now), seen.job.generation)
    still = (*preflight.remove(seen), *(
        delete_job(attempt.name) for attempt in seen.attempts if not attempt.finished and not attempt.deleting))
    spec = seen.job.spec
    ttl = spec.run_policy.ttl_seconds_after_finished if spec else None
    applied = {(kind, name) for kind, name, _ in seen.applied} | {("ConfigMap", name) for name in seen.maps}
    if ttl is None or not (seen.attempts or applied):
        return Plan(status, still)
    left = completed + timedelta(seconds=ttl) - now
    if left > timedelta():
        return Plan(status, still, requeue_after=left)
    if seen.attempts and all(attempt.deleting for attempt in seen.attempts):
        return Plan(status, still)  # The others were deleted with them, or are when these are gone.
    jobs = (delete_job(attempt.name) for attempt in seen.attempts if not attempt.deleting)
    return Plan(status, (*still, *jobs, *(Delete(API_VERSIONS[kind], kind, name) for kind, name in sorted(applied))))


def _settled(seen: Observation, settings: Settings, now: datetime) -> FineTuneJobStatus:
    """The status of a finished job, with what its last attempt cost until its pod was gone."""
    before, spec = seen.job.status, seen.job.spec
    status = attempts.released(seen, before, now)
    if status.attempts == before.attempts or status.cost is None or spec is None:
        return status
    count = admission.accelerators_of(spec, settings.accelerators.get(spec.compute.accelerator, Accelerator()))
    return status.model_copy(update={
        "cost": status.cost.model_copy(update={"spent": accounting.spent(status, count, None)})})
