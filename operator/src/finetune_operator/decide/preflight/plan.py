"""What to do about the check of a job that has not started: one CPU Job for each generation of a spec. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from finetune_api.messages import PreflightResult
from finetune_api.reasons import Reason
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import Phase, PreflightStatus

from finetune_operator.decide.actions import Action, Create, Plan
from finetune_operator.decide.attempts.cpu_pod import cpu_node, wait_of_cpu_pod
from finetune_operator.decide.attempts.end_time import end_time_of_pods, waits_for_sidecars
from finetune_operator.decide.attempts.retry_delay import backoff
from finetune_operator.decide.attempts.verdict import AttemptVerdict
from finetune_operator.decide.attempts.waiting import describe_wanted_node, verdict_if_start_fails
from finetune_operator.decide.conditions import ConditionReport, set_conditions
from finetune_operator.decide.cost import price_per_accelerator_hour
from finetune_operator.decide.preflight.outcome import after_preflight
from finetune_operator.decide.preflight.removal import remove_preflights, remove_some_preflights
from finetune_operator.decide.preflight.state import PreflightState, repeat_refusal, report_preflight
from finetune_operator.decide.preflight.turns import why_no_turn
from finetune_operator.manifests.config_maps import preflight_map
from finetune_operator.manifests.pod.node_affinity import preferring_other_nodes
from finetune_operator.manifests.pod.volumes import claims
from finetune_operator.manifests.preflight_job import preflight_job
from finetune_operator.manifests.run_config import check_config, run_text
from finetune_operator.names import PREFLIGHT_LABEL, earlier_preflight_name, preflight_name
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings

_CHECKING = ("a check on a CPU reads the data and the model and estimates the memory. No accelerator is requested "
             "before it ends")


def plan_preflight(observation: Observation, spec: FineTuneJobSpec, settings: Settings, now: datetime
                   ) -> Plan | PreflightResult:
    """What to do about the check of a job that has not started.

    Returns:
        The result of the check once it has found no problem; until then a plan.
    """
    job = observation.job
    record = job.status.preflight
    if record is None or record.generation != job.generation:
        record = PreflightStatus(generation=job.generation)
    state = PreflightState(observation, spec, settings, now, record)
    if record.refused is not None:
        return repeat_refusal(state)
    names = (_check_name(state), earlier_preflight_name(job.name, job.generation, record.failures))
    check = next((one for one in observation.preflights if one.name in names), None)
    outdated = remove_some_preflights(observation, [one for one in observation.preflights if one is not check])
    if check is None:
        return _next_check(state, outdated)
    if check.deleting and record.failed_at is not None:
        # It was evicted, which does not count: the next check has the same name and waits until this one is gone.
        return Plan(job.status, outdated)
    if check.finished or end_time_of_pods(check, now) or waits_for_sidecars(check, now):
        return after_preflight(state, check)
    if check.deleting:
        return Plan(job.status, outdated)
    given_up = verdict_if_start_fails(check, now, settings.start_timeout)
    if given_up is not None:
        return _fail(state, given_up)
    return replace(_watch_check(state, check), actions=outdated)


def _check_name(state: PreflightState) -> str:
    job = state.observation.job
    return preflight_name(job.name, job.generation, state.record.failures)


def _next_check(state: PreflightState, outdated: tuple[Action, ...]) -> Plan:
    """No check exists: create one, or wait until one may be created."""
    job, record, settings = state.observation.job, state.record, state.settings
    if record.failed_at is not None:
        wait_until = record.failed_at + backoff(record.failures, settings.retry_delay)
        if state.now < wait_until:
            return Plan(job.status, outdated, requeue_after=wait_until - state.now)
    if why := why_no_turn(state.observation.other_preflights, settings.preflight):
        return report_preflight(state, Reason.WAITING_FOR_CHECK, why, outdated)
    name = _check_name(state)
    check_job = preflight_job(job, state.spec, settings, name, state.observation.bound_claims)
    if record.node:
        check_job = preferring_other_nodes(check_job, record.node)
    price = price_per_accelerator_hour(state.spec, settings.accelerator(state.spec.compute))
    text = run_text(check_config(job, state.spec, settings, price), {}, smallest_memory=False)
    created = Create(preflight_map(job, name, text)), Create(check_job)
    return report_preflight(state, Reason.PREFLIGHT, _CHECKING, (*outdated, *created))


def _fail(state: PreflightState, given_up: AttemptVerdict) -> Plan:
    """End the job: its trainers could not start either, and no edit of the spec corrects an image or a Secret."""
    job = state.observation.job
    status = job.status.model_copy(update={"start_time": state.now, "started_generation": job.generation,
                                           "completion_time": state.now})
    report = ConditionReport(Phase.FAILED, given_up.reason, given_up.message)
    return Plan(set_conditions(status, report, job.generation, state.now), remove_preflights(state.observation))


def _watch_check(state: PreflightState, check: AttemptView) -> Plan:
    """A check exists and has not ended: report what it waits for, or that it runs."""
    wait = wait_of_cpu_pod(check, _wanted_node(state), state.settings, state.now)
    if wait.reason is None:
        return report_preflight(state, Reason.PREFLIGHT, _CHECKING, requeue_after=wait.requeue_after)
    return report_preflight(state, wait.reason, f"the check before the start: {wait.message}",
                            requeue_after=wait.requeue_after)


def _wanted_node(state: PreflightState) -> str:
    """The kind of node that a check needs, in words."""
    settings = state.settings
    wanted = cpu_node(settings)
    if claims(state.spec, settings):
        without_gpu = settings.accelerator(state.spec.compute).model_copy(update={"resource": None})
        wanted += (" (if it is the first to use a claim, on a node of "
                   f"{describe_wanted_node(state.spec, without_gpu)})")
    return wanted


def claims_to_look_up(observation: Observation, plan: Plan, settings: Settings) -> frozenset[str]:
    """The claims that a check to be created mounts, without those that are known to have a volume."""
    spec = observation.job.spec
    creates_check = any(isinstance(action, Create) and PREFLIGHT_LABEL in action.manifest["metadata"]["labels"]
                        for action in plan.actions)
    if not creates_check or spec is None:
        return frozenset()
    return claims(spec, settings) - observation.bound_claims
