"""What is told, and what is still enforced, where a job cannot be decided about. Pure.

No job may keep a pass from ending in a sentence: whatever raised, the job says so in its conditions, and a budget that
can be read is kept.
"""

from __future__ import annotations

from datetime import datetime

from finetune_api.status import FineTuneJobStatus, Phase

from finetune_operator.decide import budget
from finetune_operator.decide.actions import Action, Plan, delete_job
from finetune_operator.decide.conditions import Told, notes, tell
from finetune_operator.observed.objects import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Accelerator, Settings

_SHOWN = 300


def told(seen: Observation, settings: Settings, now: datetime, error: Exception) -> Plan:
    """The decision in the place of one that raised; the same is tried again with a growing delay."""
    job = seen.job
    if job.deleting or job.status.completion_time is not None:
        return Plan(job.status)  # How it ended is worth more.
    status, actions = within_budget(seen, settings, now)
    words = (f"the operator cannot decide about this job ({type(error).__name__}: {str(error)[:_SHOWN]}). It tries "
             "again, at least every minute; a running attempt goes on. Report this with the operator's log")
    status = tell(status, Told(status.phase or Phase.PENDING, "InternalError", words), job.generation,
                  now.replace(microsecond=0))
    return Plan(status, actions, events=notes(job.status, status))


def accelerators(job: JobView, settings: Settings) -> int:
    """How many accelerators a job whose spec can't be read pays for, as far as that can be read."""
    if job.limits is None:
        return 1
    compute = job.limits[1]
    accelerator = settings.accelerators.get(compute.accelerator, Accelerator())
    return compute.nodes * (compute.gpus_per_node if accelerator.resource else 1)


def within_budget(seen: Observation, settings: Settings, now: datetime
                  ) -> tuple[FineTuneJobStatus, tuple[Action, ...]]:
    """The status with the time since when a limit is reached, and the deletion of attempts that go on long after it."""
    status = seen.job.status
    if seen.job.limits is None:
        return status, ()
    limits, count = seen.job.limits[0], accelerators(seen.job, settings)
    try:
        status = budget.watched(limits, status, count, now)
        overdue = budget.overdue(limits, status, count, now)
    except (ArithmeticError, ValueError, TypeError):
        return seen.job.status, ()
    going = (one for one in seen.attempts if not one.finished and not one.deleting)
    return status, tuple(delete_job(one.name) for one in going) if overdue else ()
