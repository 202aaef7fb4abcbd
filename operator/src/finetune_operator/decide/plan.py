"""The decision about a job: the order of the questions. The modules beside this one answer them.

Pure: no clock, no client, no kopf. The same observation, settings and time give the same plan.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from finetune_api.failures import Retry
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, Phase

from finetune_operator.decide.actions import Apply, Plan
from finetune_operator.decide.attempts.records import UpdatedAttempts, active_attempt, update_attempts
from finetune_operator.decide.conditions import ConditionReport, events_of, progressing_condition, set_conditions
from finetune_operator.decide.cost import with_current_cost, with_listed_attempts
from finetune_operator.decide.preflight.removal import remove_preflights
from finetune_operator.decide.stages.after_attempt import plan_after_attempt
from finetune_operator.decide.stages.cleanup import plan_cleanup
from finetune_operator.decide.stages.finish import end_of, finish_job
from finetune_operator.decide.stages.next_attempt import plan_next_attempt
from finetune_operator.decide.stages.running import plan_running
from finetune_operator.decide.stages.start import plan_start
from finetune_operator.decide.stages.started_job import StartedJob
from finetune_operator.decide.stages.undecidable import known_accelerator_count, report_unreadable_spec
from finetune_operator.manifests import network_policy
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings


def plan(observation: Observation, settings: Settings, now: datetime) -> Plan:
    """Decide about one job.

    Args:
        observation: everything that is known about it.
        settings: the administrator's settings.
        now: the time, in UTC.
    """
    now = now.replace(microsecond=0)
    status = observation.job.status
    if observation.job.deleting:
        # Owner references delete its children. But a finalizer may hold the job while others wait for its turn.
        return Plan(status, remove_preflights(observation))
    if status.completion_time is not None:
        return plan_cleanup(observation, settings, status.completion_time, now)
    if status.start_time is None:
        decided = plan_start(observation, settings, now)
    else:
        decided = _plan_started(observation, settings, now)
        decided = replace(decided, actions=(*remove_preflights(observation), *decided.actions))
    decided = replace(decided, status=_with_some_condition(decided.status, observation.job, now))
    policy = network_policy.missing(observation, settings) if decided.actions or observation.attempts else ()
    return replace(decided, actions=(*map(Apply, policy), *decided.actions), events=events_of(status, decided.status))


def _plan_started(observation: Observation, settings: Settings, now: datetime) -> Plan:
    """What to do about a job that has started and is not finished."""
    job = observation.job
    if job.spec is None:
        return _plan_without_spec(observation, settings, now)
    updated = update_attempts(observation, job.status, job.spec.run_policy.suspend, now)
    started = StartedJob(observation, job.spec, updated.status, settings, now)
    started = replace(started, status=_with_cost(observation, updated, started.accelerator_count))
    if updated.verdict is not None:
        return plan_after_attempt(started, updated.verdict)
    attempt = active_attempt(observation, started.status, now)
    return plan_running(started, attempt) if attempt else plan_next_attempt(started)


def _plan_without_spec(observation: Observation, settings: Settings, now: datetime) -> Plan:
    """What to do about a started job whose spec cannot be read: nothing, unless the end of an attempt ends the job."""
    job = observation.job
    updated = update_attempts(observation, job.status, False, now)
    if updated.verdict is None or updated.verdict.retry not in (None, Retry.NEVER):
        return report_unreadable_spec(observation, settings, now)
    accelerators = known_accelerator_count(job, settings)
    status = _with_cost(observation, updated, accelerators)
    return finish_job(job, status, end_of(updated.verdict), accelerators, now)


def _with_cost(observation: Observation, updated: UpdatedAttempts, accelerators: int) -> FineTuneJobStatus:
    status = with_listed_attempts(updated.status, accelerators)
    return with_current_cost(status, accelerators, observation.progress, observation.polled_at)


def _with_some_condition(status: FineTuneJobStatus, job: JobView, now: datetime) -> FineTuneJobStatus:
    """The status with a condition in any case: the conditions of an earlier pass may have been lost."""
    if progressing_condition(status) is not None:
        return status
    message = "the next step of the job is under way. Its Jobs and pods show more"
    report = ConditionReport(status.phase or Phase.PENDING, Reason.WAITING, message)
    return set_conditions(status, report, job.generation, now)
