"""The decision: what is to be done about a job, and what is to be told of it. Pure: no clock, no client, no kopf."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome, Result, Stage
from finetune_api.spec.training import Toggle
from finetune_api.status import LAST_NUMBER, FineTuneJobStatus, Phase, Retries

from finetune_operator.decide import accounting, admission, attempts, budget, failing, finished, preflight
from finetune_operator.decide.actions import Action, Apply, Create, Plan, delete_job
from finetune_operator.decide.conditions import Told, notes, progressing, tell
from finetune_operator.decide.failure import (
    NO_POD,
    NO_QUEUE,
    PREEMPTED,
    TRAINERS_OWN,
    Answer,
    Verdict,
    judge_start,
    lacks_pod,
    look_again,
    waiting_words,
)
from finetune_operator.decide.starting import before_start
from finetune_operator.manifests import network_policy
from finetune_operator.manifests.attempt_request import AttemptRequest
from finetune_operator.manifests.child import Manifest, identity
from finetune_operator.manifests.config_maps import limits_map, run_map
from finetune_operator.manifests.pod.node_affinity import avoiding_nodes
from finetune_operator.manifests.run_config import frozen_facts, run_config, run_text
from finetune_operator.manifests.service import rendezvous_service
from finetune_operator.manifests.trainer_job import attempt_job
from finetune_operator.names import attempt_name
from finetune_operator.observed.objects import AttemptView, JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Accelerator, Settings

_PHASES = {
    Stage.EVALUATING_BEFORE: Phase.EVALUATING, Stage.EVALUATING_AFTER: Phase.EVALUATING,
    Stage.EXPORTING: Phase.UPLOADING, Stage.PUBLISHING: Phase.UPLOADING, Stage.DONE: Phase.UPLOADING,
}


QUICK_START = timedelta(seconds=5)
"""How long a pod with a node may take to run before its start is told."""


def plan(seen: Observation, settings: Settings, now: datetime) -> Plan:
    """Decide about one job.

    Args:
        seen: everything that is known of it.
        settings: the administrator's settings.
        now: the time, in UTC.
    """
    now = now.replace(microsecond=0)
    status = seen.job.status
    if seen.job.deleting:
        # Its children go with it, by their owner references. A finalizer may hold it; others wait to be checked.
        return Plan(status, preflight.remove(seen))
    if status.completion_time is not None:
        return finished.clean_up(seen, settings, status.completion_time, now)
    if status.start_time is None:
        decided = before_start(seen, settings, now)
    else:
        decided = _Pass(seen, settings, now).decide()
        decided = replace(decided, actions=(*preflight.remove(seen), *decided.actions))
    decided = replace(decided, status=_with_a_sentence(decided.status, seen.job, now))
    isolate = network_policy.missing(seen, settings) if decided.actions or seen.attempts else ()
    return replace(decided, actions=(*map(Apply, isolate), *decided.actions), events=notes(status, decided.status))


def _with_a_sentence(status: FineTuneJobStatus, job: JobView, now: datetime) -> FineTuneJobStatus:
    """A status that tells something; what was told before may have been lost."""
    if progressing(status) is not None:
        return status
    words = "what the job needs next is under way; its Jobs and pods tell more"
    told = Told(status.phase or Phase.PENDING, "Waiting", words)
    return tell(status, told, job.generation, now)


def refused(job: JobView, decided: Plan, words: str, now: datetime) -> Plan:
    """What is told when the apiserver does not take what a decision makes; the same is tried again later."""
    if decided.status.completion_time is not None:
        return Plan(decided.status, events=decided.events)  # How it ended is worth more than what can't be tidied up.
    told = Told(decided.status.phase or Phase.PENDING, "CannotStart",
                f"the apiserver refuses what the job needs: {words}")
    # What was seen stays seen: how an attempt ended, and since when its budget is used up.
    status = tell(decided.status, told, job.generation, now.replace(microsecond=0))
    return Plan(status, events=notes(job.status, status))


class _Pass:
    """One decision about a job that has started and is not finished."""

    def __init__(self, seen: Observation, settings: Settings, now: datetime) -> None:
        self.seen, self.settings, self.now = seen, settings, now
        self.job = seen.job
        self.status = seen.job.status

    def decide(self) -> Plan:
        spec = self.job.spec
        if spec is None:
            return self._without_spec()
        self.spec = spec
        # The catalogue may have changed since: what is needed of it is only how an attempt is made.
        self.accelerator = self.settings.accelerators.get(spec.compute.accelerator, Accelerator())
        self.count = admission.accelerators_of(spec, self.accelerator)
        self.status, ending = attempts.kept(self.seen, self.status, self.spec.run_policy.suspend, self.now)
        self.retries = self.status.retries or Retries()
        self._account()
        if ending is not None:
            return self._after(ending)
        active = attempts.under_way(self.seen, self.status, self.now)
        return self._watch(active) if active else self._next()

    def _without_spec(self) -> Plan:
        """No attempt is made of a spec that can't be read; but what one that was under way came to, counts."""
        status, ending = attempts.kept(self.seen, self.status, False, self.now)
        if ending is None or ending.answer not in (Answer.SUCCEED, Answer.FAIL):
            return self._unreadable()
        self.status, self.count = status, failing.accelerators(self.job, self.settings)
        self._account()
        return self._after(ending)

    def _unreadable(self) -> Plan:
        self.status, overdue = failing.within_budget(self.seen, self.settings, self.now)
        return self._tell(Told(self.status.phase or Phase.PENDING, "InvalidSpec",
                               self.job.spec_error or "the spec can't be read", valid=False), overdue)

    def _account(self) -> None:
        """Derive the cost from the attempts."""
        self.status = accounting.shorten(self.status, self.count)
        if self.status.cost is None:
            return
        until = self.seen.polled_at.replace(microsecond=0) if self.seen.polled_at else None
        so_far = accounting.spent(self.status, self.count, until)
        if self.seen.polled_at is None and any(one.end_time is None for one in self.status.attempts):
            so_far = max(so_far, self.status.cost.spent)  # Just restarted: the trainer is asked in a moment.
        self.status = self.status.model_copy(update={
            "cost": self.status.cost.model_copy(update={"spent": so_far, "projected": budget.projected(
                self.status, self.count, so_far, self.seen.progress, until)})})

    def _after(self, end: Verdict) -> Plan:
        """What follows from an attempt's end."""
        result = end.result
        if end.answer is Answer.SUCCEED:
            return self._finish(Phase.SUCCEEDED, end.reason, end.message, result)
        if end.answer is Answer.FAIL:
            return self._finish(Phase.FAILED, end.reason, end.message, result)
        if end.answer is Answer.RETRY_SMALLER:
            earlier = [one for one in self.status.attempts if one.reason == Outcome.OUT_OF_MEMORY]
            if len(earlier) > 1 or self._is_smallest():
                return self._finish(Phase.FAILED, end.reason, f"{end.message}; smaller is not possible on this "
                                    "accelerator: shorten training.maxLength, quantize (method.quantization: nf4), or "
                                    "take a larger compute.accelerator", result)
        if end.answer is Answer.RETRY_FREE and self.retries.without_progress > accounting.FREE_RETRIES:
            times = self.retries.without_progress
            return self._finish(Phase.FAILED, "NoProgress", f"it was stopped {times} times in a row before it could "
                                "write a newer checkpoint: lower training.checkpointEvery, or leave compute.spot out",
                                result)
        if end.answer is Answer.RETRY_COUNTED and self.retries.counted > self.spec.run_policy.backoff_limit:
            times = self.spec.run_policy.backoff_limit
            return self._finish(Phase.FAILED, end.reason,
                                f"{end.message} (retried {times} times, which is runPolicy.backoffLimit)", result)
        if self.spec.run_policy.suspend:
            return self._next()
        return self._tell(Told(Phase.STARTING, "Retrying", f"{end.message}; the next attempt goes on from the last "
                                                          "checkpoint"), requeue=timedelta())

    def _is_smallest(self) -> bool:
        training = self.spec.training
        return training.micro_batch_size == 1 and training.gradient_checkpointing is Toggle.ENABLED

    def _finish(self, phase: Phase, reason: str, message: str, result: Result | None) -> Plan:
        """The end of the job, with everything that is known of it."""
        update: dict[str, Any] = {"completion_time": self.now, "stage": None}
        if result is not None:
            update |= {"evaluation": result.evaluation, "adapter": result.adapter,
                       "memory": self._memory(result.memory)}
            if self.status.progress and result.total_steps:
                update["progress"] = self.status.progress.model_copy(update={
                    "step": result.step, "total_steps": result.total_steps,
                    "percent": 100 * result.step // result.total_steps, "estimated_completion_time": None})
        if self.status.cost:
            # A node that is still held is paid for until now; the rest is added once it is known.
            so_far = accounting.spent(self.status, self.count, self.now)
            update["cost"] = self.status.cost.model_copy(update={
                "spent": so_far, "projected": None, "used_up_at": None})
        self.status = self.status.model_copy(update=update)
        if phase is Phase.FAILED and reason not in TRAINERS_OWN and attempts.furthest(self.status.attempts):
            message += (". Its checkpoints are kept: a new job with "
                        f"runPolicy.resumeFrom: {self.job.name} goes on from them, where only compute, budget and "
                        "runPolicy differ")
        return self._tell(Told(phase, reason, message))

    def _memory(self, said: Any) -> Any:
        known = self.status.memory
        if said is None or known is None:
            return said or known
        return known.model_copy(update={name: value for name in type(said).model_fields
                                        if (value := getattr(said, name)) is not None})

    def _watch(self, active: AttemptView) -> Plan:
        """An attempt that is under way."""
        self.status = budget.watched(self.spec.budget, self.status, self.count, self.now)
        stopping = self._stopping(active)
        if stopping is not None:
            return stopping
        never = judge_start(active, self.now, self.settings.start_timeout, attempts.has_run(self.status))
        if never is not None:
            self.status = attempts.unstarted(self.status, never)
            return self._after(never)
        self._pin_image(active)
        actions = tuple(Apply(one) for one in self._adjustable(active.number)
                        if identity(one) not in self.seen.applied)
        if active.suspended:
            queue = self.spec.compute.queue_name
            words = f"the queue {queue} has not admitted the job yet (Kueue starts it)" if queue else NO_QUEUE.format(
                "compute.queueName names one, in a new job")
            return self._tell(Told(Phase.QUEUED, "WaitingForQuota", words, admitted=False), actions)
        why = waiting_words(active, admission.node_words(self.spec, self.accelerator), self.now)
        if active.pods and lacks_pod(active, self.now):
            return self._tell(Told(Phase.STARTING, "CannotStart", why or ""), actions)
        if any(pod.running or pod.exit_code is not None for pod in active.present):
            return self._tell(self._running(active), actions, NO_POD if len(active.pods) < active.wanted else None)
        if any(pod.unschedulable is not None for pod in active.present):
            return self._unschedulable(active, why or "", actions)
        scheduled = attempts.scheduled_at(active.present)
        if why is None and (scheduled is None or self.now - scheduled < QUICK_START):
            # Most pods run in a moment, and then that is told: a write saved.
            soon = QUICK_START if scheduled else None if active.pods else NO_POD
            return Plan(self.job.status, actions, requeue_after=soon)
        told = Told(Phase.STARTING, "CannotStart" if why else "Starting",
                    why or f"attempt {active.number} has a node; its image is pulled and its container is started",
                    admitted=True)
        return self._tell(told, actions, look_again(scheduled, self.now, self.settings.start_timeout))

    def _unschedulable(self, active: AttemptView, why: str, actions: tuple[Action, ...]) -> Plan:
        """No node takes an attempt: made anew once it need not keep away any longer from one that might."""
        kept_away = accounting.avoided(self.status, self.settings.retry_delay, active.created_at)
        if kept_away:
            why += (f". It keeps away from {', '.join(kept_away)}, which did not start an earlier attempt, until "
                    f"{min(kept_away.values()):%H:%M:%S} UTC")
        told = Told(Phase.QUEUED, "Unschedulable", why, admitted=False)
        if any(end <= self.now for end in kept_away.values()):
            return self._tell(told, (delete_job(active.name),))
        return self._tell(told, actions, min(kept_away.values()) - self.now if kept_away else None)

    def _stopping(self, active: AttemptView) -> Plan | None:
        """What is told of an attempt that is to end, or ends, before it is done; None for one that goes on."""
        overdue = budget.overdue(self.spec.budget, self.status, self.count, self.now)
        phase, delete = self.status.phase or Phase.STARTING, () if active.deleting else (delete_job(active.name),)
        if overdue or self.spec.run_policy.suspend:
            return self._tell(Told(phase, "Stopping", overdue or "the trainer checkpoints and stops"), delete)
        on_nodes = [pod for pod in active.present if pod.scheduled_at]
        known = attempts.told_preempted(self.job.status)
        surely = known and any(pod.leaving_at for pod in on_nodes)
        if (active.suspended and on_nodes) or surely:
            # Admitted again, the same Job would make a second pod beside the one that ends. That it was not admitted
            # just now is known from its pod, which leaves. It is told first: then its end is known to be no failure.
            words = (f"the queue {self.spec.compute.queue_name} takes back the quota that it gave the job; the trainer "
                     "checkpoints and stops")
            return self._tell(Told(phase, PREEMPTED, words), delete if surely else ())
        if any(pod.lingers and pod.exit_code != ExitCode.OK for pod in active.present) and not active.deleting:
            return self._tell(Told(phase, "Stopping", "one of its trainers has failed: the others are stopped"), delete)
        if active.deleting:
            return self._tell(Told(phase, PREEMPTED if known else "Stopping", "the attempt's Job is being deleted; the "
                                                                              "next one starts when its pods are gone"))
        return None

    def _running(self, active: AttemptView) -> Told:
        progress = self.seen.progress
        if progress is None:
            return Told(Phase.RUNNING, "Running", f"attempt {active.number} runs on "
                        f"{', '.join(sorted({pod.node for pod in active.pods if pod.node}))}", admitted=True)
        self.status = self.status.model_copy(update={
            "stage": str(progress.stage),
            "progress": progress.progress or self.status.progress,
            "memory": self._memory(progress.memory),
        })
        phase = _PHASES.get(progress.stage, Phase.RUNNING)
        return Told(phase, phase.value, f"attempt {active.number} is {progress.stage.value}", admitted=True)

    def _pin_image(self, active: AttemptView) -> None:
        """From the first pull on every attempt runs the same image, whatever its tag becomes."""
        pulled = next((pod.image_id for pod in active.pods if pod.image_id), None)
        image = self.status.image or self.settings.image_for(self.spec.engine)
        if pulled and "@sha256:" in pulled and "@sha256:" not in image:
            digest = pulled.rpartition("@")[2]
            repository = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
            self.status = self.status.model_copy(update={"image": f"{repository}@{digest}"})

    def _limits_map(self, number: int) -> Manifest:
        limits = budget.limits(self.spec.budget, self.status, self.count)
        return limits_map(self.job, number, limits)

    def _adjustable(self, number: int) -> tuple[Manifest, ...]:
        """An attempt's children that may change, or be put back, while it runs."""
        limits = self._limits_map(number)
        return (limits, rendezvous_service(self.job, number)) if self.spec.compute.nodes > 1 else (limits,)

    def _next(self) -> Plan:
        """No attempt is under way: make the next one, or wait until it may be made."""
        # A queue could start a preempted attempt's Job again, and keeps quota for that of a lost pod.
        left = [one for one in self.seen.attempts if not one.finished and not (
            one.deleting and attempts.over(one, self.status, self.now))]
        if left:
            return Plan(self.status, tuple(delete_job(one.name) for one in left if not one.deleting))
        if self.spec.run_policy.suspend:
            return self._tell(Told(Phase.SUSPENDED, "Suspended",
                                   "suspended; set runPolicy.suspend to false and it goes on from its last checkpoint"))
        if over := budget.spent(self.spec.budget, self.status):
            return self._finish(Phase.FAILED, "BudgetSpent", over, None)
        last = self.status.attempts[-1] if self.status.attempts else None
        wait_until = accounting.retry_at(last, self.retries, self.settings.retry_delay)
        if wait_until is not None and self.now < wait_until:
            return Plan(self.status, requeue_after=wait_until - self.now)
        numbers = [*(one.number for one in self.status.attempts), *(one.number for one in self.seen.attempts),
                   *self.seen.taken]
        number = max(numbers, default=0) + 1
        if number > LAST_NUMBER:
            return self._finish(Phase.FAILED, "TooManyAttempts", f"a Job with our labels has the number {number - 1}, "
                                "the last there is: delete it, and apply this job again", None)
        several = self.spec.compute.nodes > 1
        rendezvous = self.seen.addresses.get(attempt_name(self.job.name, number)) if several else None
        if several and rendezvous is None:
            # First the Service, whose address goes into the pods.
            service = Create(rendezvous_service(self.job, number))
            return Plan(self.status, (service,), requeue_after=timedelta())
        if (name := self.spec.compute.accelerator) not in self.settings.accelerators:
            return self._tell(Told(Phase.STARTING, "CannotStart", f"compute.accelerator {name} is no longer in the "
                                   "operator's catalogue (settings.accelerators): the next attempt waits until an "
                                   "administrator puts it back"))
        if number > 1 and self.seen.earlier_run is None:
            return Plan(self.status, needs_earlier_run=True)
        if self.job.spec_error and not self.seen.earlier_run:
            return self._unreadable()
        image = self.status.image or self.settings.image_for(self.spec.engine)
        request = AttemptRequest(self.job, self.spec, number, image, self.accelerator, self.settings, rendezvous,
                                 budget.deadline(self.spec.budget))
        avoided = accounting.avoided(self.status, self.settings.retry_delay, self.now)
        made = (run_map(self.job, number, self._run_text(request)), self._limits_map(number),
                avoiding_nodes(attempt_job(request), avoided))
        actions = tuple(Create(one) for one in made)
        if self.status.phase is Phase.STARTING:
            return Plan(self.status, actions)  # Told already: a write saved.
        return self._tell(Told(Phase.STARTING, "Starting", f"attempt {number} is being made"), actions)

    def _run_text(self, request: AttemptRequest) -> str:
        """An attempt's run.json, with the smallest memory plan once the accelerator's memory did not suffice."""
        smallest = any(one.reason == Outcome.OUT_OF_MEMORY for one in self.status.attempts)
        spec = self.spec
        if smallest:
            spec = spec.model_copy(update={"training": spec.training.model_copy(update={
                "micro_batch_size": 1, "gradient_checkpointing": Toggle.ENABLED})})
        facts = frozen_facts(self.status, self.accelerator.hourly_price)
        config = run_config(replace(request, spec=spec), facts)
        return run_text(config, dict(self.seen.earlier_run or {}), smallest)

    def _tell(self, told: Told, actions: tuple[Action, ...] = (), requeue: timedelta | None = None) -> Plan:
        return Plan(tell(self.status, told, self.job.generation, self.now), actions, requeue_after=requeue)
