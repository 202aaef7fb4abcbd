"""The check before the start: one CPU Job for each generation of a spec, and what its end means. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome, PreflightResult, PreflightVerdict
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import Phase, PreflightStatus

from finetune_operator.decide import accounting, admission, attempts
from finetune_operator.decide.actions import Action, Create, Delete, Plan, delete_job
from finetune_operator.decide.conditions import Told, tell
from finetune_operator.decide.failure import (
    CHECKING,
    NO_POD,
    NO_QUEUE,
    NODE_REFUSED,
    OVERDUE,
    POD_LOST,
    RETRYING,
    WAITING_FOR_CHECK,
    Answer,
    judge_end,
    judge_start,
    look_again,
    most_telling,
    waiting_words,
)
from finetune_operator.manifests.config_maps import preflight_map
from finetune_operator.manifests.pod.node_affinity import preferring_other_nodes
from finetune_operator.manifests.pod.volumes import claims
from finetune_operator.manifests.preflight_job import preflight_job
from finetune_operator.manifests.run_config import check_config, run_text
from finetune_operator.names import PREFLIGHT_LABEL, earlier_preflight_name, preflight_name, preflight_run_name
from finetune_operator.observed.objects import AttemptView
from finetune_operator.observed.observation import Checks, Observation
from finetune_operator.settings import PreflightSettings, Settings

_CHECKING = "data, model and memory are being checked on a CPU; no accelerator is asked for before that"


def decide(seen: Observation, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Plan | PreflightResult:
    """What is to be done about the check of a job that has not started; its result once it found nothing wrong.

    A refusal stands until the spec is edited: then the generation is another one, and is checked afresh.
    """
    job = seen.job
    known = job.status.preflight
    if known is None or known.generation != job.generation:
        known = PreflightStatus(generation=job.generation)
    name = preflight_name(job.name, job.generation, known.failures)
    usual = (name, earlier_preflight_name(job.name, job.generation, known.failures))
    check = next((one for one in seen.preflights if one.name in usual), None)
    old = _remove(seen, [one for one in seen.preflights if one is not check])
    if known.refused is not None:
        return _refuse(seen, known, now)
    if check is None:
        wait_until = _retry_at(known, settings.retry_delay)
        if wait_until is not None and now < wait_until:
            return Plan(job.status, old, requeue_after=wait_until - now)
        if taken := _no_turn(seen.checks, settings.preflight):
            return _telling(seen, known, WAITING_FOR_CHECK, taken, now, old)
        check_job = preflight_job(job, spec, settings, name, seen.bound_claims)
        if known.node:
            check_job = preferring_other_nodes(check_job, known.node)
        price = admission.price_of(spec, settings.accelerators[spec.compute.accelerator])
        text = run_text(check_config(job, spec, settings, price), {}, smallest_memory=False)
        made = Create(preflight_map(job, name, text)), Create(check_job)
        return _telling(seen, known, CHECKING, _CHECKING, now, (*old, *made))
    if check.deleting and known.failed_at is not None:
        return Plan(job.status, old)  # It was evicted, which counts for nothing; the next one has its name.
    if check.finished or attempts.ended_at(check, now) or attempts.lingering(check, now):
        return _judge(seen, known, check, spec, now)
    if check.deleting:
        return Plan(job.status, old)
    never = judge_start(check, now, settings.start_timeout)
    if never is not None:
        # The same would keep a trainer from starting, and no edit of the spec mends an image or a Secret.
        status = job.status.model_copy(update={"start_time": now, "started_generation": job.generation,
                                               "completion_time": now})
        told = Told(Phase.FAILED, never.reason, never.message)
        return Plan(tell(status, told, job.generation, now), remove(seen))
    return replace(_under_way(seen, known, check, spec, settings, now), actions=old)


def _no_turn(checks: Checks, settings: PreflightSettings) -> str | None:
    """Why no further check may be made now, in words that do not change while it waits; None where one may."""
    if checks.in_namespace >= settings.parallelism_per_namespace:
        return (f"the check before the start waits for its turn: {settings.parallelism_per_namespace} others of this "
                "namespace are there (preflight.parallelismPerNamespace in the operator's settings)")
    if checks.working >= settings.parallelism:
        return (f"the check before the start waits for its turn: {settings.parallelism} others run "
                "(preflight.parallelism in the operator's settings)")
    return None


def claims_to_ask_for(seen: Observation, decided: Plan, settings: Settings) -> frozenset[str]:
    """The claims that a check that is about to be made mounts, and of which is not known whether they have a volume."""
    makes = any(isinstance(action, Create) and PREFLIGHT_LABEL in action.manifest["metadata"]["labels"]
                for action in decided.actions)
    return claims(seen.job.spec, settings) - seen.bound_claims if makes and seen.job.spec else frozenset()


def _under_way(seen: Observation, known: PreflightStatus, check: AttemptView, spec: FineTuneJobSpec,
               settings: Settings, now: datetime) -> Plan:
    """What is told of a check that is there and has not ended."""
    if check.suspended:
        queue = settings.preflight.queue_name
        words = f"the queue {queue} has not admitted it yet (Kueue starts it)" if queue else NO_QUEUE.format(
            "an administrator names one in preflight.queueName")
        return _telling(seen, known, "WaitingForQuota", f"the check before the start: {words}", now)
    looked_for = f"{settings.preflight.cpu} CPU and {settings.preflight.memory} of memory"
    if claims(spec, settings):
        nodes = settings.accelerators[spec.compute.accelerator].model_copy(update={"resource": None})
        looked_for += f" (where it is the first to use a claim, on a node of {admission.node_words(spec, nodes)})"
    why = waiting_words(check, looked_for, now)
    scheduled = attempts.scheduled_at(check.present)
    left = None if check.pods else NO_POD
    if scheduled and not any(pod.running for pod in check.present):
        left = look_again(scheduled, now, settings.start_timeout)
    if why is None:
        return _telling(seen, known, CHECKING, _CHECKING, now, requeue=left)
    reason = "Unschedulable" if any(pod.unschedulable is not None for pod in check.present) else "CannotStart"
    return _telling(seen, known, reason, f"the check before the start: {why}", now, requeue=left)


def _judge(seen: Observation, known: PreflightStatus, check: AttemptView, spec: FineTuneJobSpec, now: datetime
           ) -> Plan | PreflightResult:
    """What the end of a check means: its own words, else those of the table of exit codes."""
    said = next((pod.preflight for pod in check.pods if pod.preflight), None)
    ended_well = check.complete or (check.pods and all(pod.exit_code == ExitCode.OK for pod in check.pods))
    if ended_well and said and said.verdict is not PreflightVerdict.REFUSED:
        return said
    end = judge_end(check)
    reason, message = end.reason, end.message
    if end.reason == "HostOutOfMemory":
        message = "the check needed more host memory than it has: raise preflight.memory in the operator's settings"
    elif end.reason == OVERDUE:
        words = "the check did not end in its time: raise preflight.timeout in the operator's settings"
        return _refuse(seen, known.model_copy(update={"refused": OVERDUE, "message": words}), now)
    elif said and any(pod.exit_code not in (ExitCode.OK, ExitCode.INTERNAL) for pod in check.pods):
        reason, message = said.reason, said.message
    if end.answer in (Answer.FAIL, Answer.RETRY_SMALLER):
        return _refuse(seen, known.model_copy(update={"refused": str(reason), "message": message[:4096]}), now)
    # One on a silent node keeps its name, so the next has to have another.
    failures = known.failures + (1 if end.answer is Answer.RETRY_COUNTED or end.reason == POD_LOST else 0)
    if failures > spec.run_policy.backoff_limit:
        words = f"{said.message if said else message} (tried {failures} times)"
        return _refuse(seen, known.model_copy(update={"refused": "PreflightFailed", "message": words[:4096]}), now)
    pod = most_telling(check) if end.reason == NODE_REFUSED else None
    again = known.model_copy(update={"failures": failures, "failed_at": now, "node": pod.node if pod else None})
    return _telling(seen, again, RETRYING, f"the check before the start is made again: {message}", now, remove(seen))


def _retry_at(known: PreflightStatus, delay: timedelta) -> datetime | None:
    if known.failed_at is None:
        return None
    return known.failed_at + accounting.backoff(known.failures, delay)


def _refuse(seen: Observation, known: PreflightStatus, now: datetime) -> Plan:
    told = Told(Phase.PENDING, known.refused or Outcome.BAD_CONFIG, known.message or "", valid=False)
    status = seen.job.status.model_copy(update={"preflight": known})
    return Plan(tell(status, told, seen.job.generation, now), remove(seen))


def _telling(seen: Observation, known: PreflightStatus, reason: str, words: str, now: datetime,
             actions: tuple[Action, ...] = (), requeue: timedelta | None = None) -> Plan:
    status = seen.job.status.model_copy(update={"preflight": known})
    return Plan(tell(status, Told(Phase.PREFLIGHT, reason, words), seen.job.generation, now), actions,
                requeue_after=requeue)


def found(checked: PreflightResult | None, generation: int) -> PreflightStatus | None:
    """What the start record keeps of a check."""
    if checked is None:
        return None
    estimate = checked.estimate
    return PreflightStatus(generation=generation, model_revision=checked.model_revision, data_hash=checked.data_hash,
                           hours=estimate.hours if estimate else None,
                           checkpoint_bytes=estimate.checkpoint_bytes if estimate else None)


def remove(seen: Observation) -> tuple[Action, ...]:
    """Delete every check, whose words are in the status by then."""
    return _remove(seen, list(seen.preflights))


def _remove(seen: Observation, checks: list[AttemptView]) -> tuple[Action, ...]:
    gone: list[Action] = []
    for check in checks:
        if not check.deleting:
            gone += [delete_job(check.name),
                     Delete("v1", "ConfigMap", preflight_run_name(check.name, seen.job.uid))]
    return tuple(gone)
