"""What happens next to an experiment: which jobs are created, limited, suspended and stopped. Pure.

The same experiment and observation give the same plan, and a plan that was carried out changes nothing when it is made
again: the name of a job follows from what it is, so none is created twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise

from finetune_api.experiment.expansion import Run
from finetune_api.experiment.halving import saved_by_halving, stages, survivors
from finetune_api.experiment.money import Candidate, committed, limit_of_new_job, limits_of_running_jobs
from finetune_api.experiment.observed import ObservedExperiment, ObservedJob
from finetune_api.experiment.spec import FineTuneExperimentSpec
from finetune_api.experiment.status import ExperimentReason, RunPhase


@dataclass(frozen=True)
class CreateJob:
    """Create a job.

    Attributes:
        run: the job.
        max_cost: its `budget.maxCost`; None for none.
    """

    run: Run
    max_cost: Decimal | None


@dataclass(frozen=True)
class LimitJob:
    """Change the `budget.maxCost` of a job that runs; None for none."""

    name: str
    max_cost: Decimal | None


@dataclass(frozen=True)
class SuspendJob:
    """Suspend a job that runs: it writes a checkpoint, and its node is free."""

    name: str


@dataclass(frozen=True)
class ResumeJob:
    """Go on with a job that the experiment has suspended."""

    name: str


@dataclass(frozen=True)
class StopJob:
    """Delete a job whose variant is not in the experiment any more, and that has not ended."""

    name: str


Action = CreateJob | LimitJob | SuspendJob | ResumeJob | StopJob


@dataclass(frozen=True)
class NotStarted:
    """Why a job does not exist.

    Attributes:
        reason: `Waiting`, `Preflight`, `Suspended`, `BudgetSpent` or `Halved`.
        message: in words.
    """

    reason: ExperimentReason
    message: str

    @property
    def phase(self) -> RunPhase:
        """Pending while the job may still be started, else Skipped."""
        skipped = self.reason in (ExperimentReason.BUDGET_SPENT, ExperimentReason.HALVED)
        return RunPhase.SKIPPED if skipped else RunPhase.PENDING


@dataclass(frozen=True)
class ExperimentPlan:
    """What to do, and why the jobs that are not started are not.

    Attributes:
        actions: what to do, in this order.
        not_started: by the name of the job.
        finished: whether every job has ended or is skipped.
        saved: what halving has saved.
    """

    actions: tuple[Action, ...]
    not_started: Mapping[str, NotStarted] = field(default_factory=dict)
    finished: bool = False
    saved: Decimal = Decimal(0)


def plan(spec: FineTuneExperimentSpec, runs: Sequence[Run], observed: ObservedExperiment) -> ExperimentPlan:
    """Decide about one experiment.

    Args:
        spec: the experiment's spec.
        runs: its jobs, as `expand` lists them.
        observed: what is known of them.
    """
    wanted = {run.name: run for run in runs}
    active = {name: job for name, job in observed.jobs.items() if not job.has_ended}
    stops = [StopJob(name) for name in active if name not in wanted]
    gates, started, not_started = _next_jobs(spec, runs, observed)
    is_over = not active and not started and all(
        one.phase is RunPhase.SKIPPED for one in (*gates.values(), *not_started.values()))
    if spec.suspend and not is_over:
        gates = _halved(spec, runs, observed, frozenset())
        not_started = {run.name: NotStarted(ExperimentReason.SUSPENDED, "spec.suspend is true") for run in runs
                       if run.name not in observed.jobs and run.name not in gates}
        running = [name for name, job in active.items() if name in wanted and job.phase is RunPhase.RUNNING]
        actions: list[Action] = [*stops, *_limits(spec, wanted, observed, (), True), *map(SuspendJob, running)]
    else:
        held = [run.name for run in runs if run.name in active and active[run.name].held]
        free = max(spec.parallelism - (len(active) - len(held)), 0)  # It may be lower than when they were suspended.
        waiting = any(one.phase is RunPhase.PENDING for one in not_started.values())
        actions = [*stops, *_limits(spec, wanted, observed, started, waiting), *map(ResumeJob, held[:free]), *started]
    not_started |= {name: gate for name, gate in gates.items() if name not in not_started}
    halved = [name for name, one in not_started.items() if one.reason is ExperimentReason.HALVED]
    return ExperimentPlan(
        tuple(actions), not_started, finished=is_over,
        saved=saved_by_halving(runs, halved, observed, spec.early_stop))


def _next_jobs(spec: FineTuneExperimentSpec, runs: Sequence[Run], observed: ObservedExperiment
               ) -> tuple[dict[str, NotStarted], list[CreateJob], dict[str, NotStarted]]:
    """What halving keeps from being started, the jobs to create now, and why the others are not created.

    A rung is over although some of its jobs are not, if these cannot be paid: then the next one may start.
    """
    unpaid: frozenset[str] = frozenset()
    while True:
        gates = _halved(spec, runs, observed, unpaid)
        pending = [run for run in runs if run.name not in observed.jobs and run.name not in gates]
        started, not_started = _start(spec, pending, observed, _reserved(spec, runs, gates))
        found = unpaid | {name for name, one in not_started.items() if one.reason is ExperimentReason.BUDGET_SPENT}
        if found == unpaid:
            return gates, started, not_started
        unpaid = found


def _halved(spec: FineTuneExperimentSpec, runs: Sequence[Run], observed: ObservedExperiment, unpaid: frozenset[str]
            ) -> dict[str, NotStarted]:
    """The jobs that halving keeps from being started: for ever, or until the rung before is over.

    A job that exists goes on, even where an edit of the experiment would have kept it from being started. So is a
    result taken over that is published already.
    """
    if spec.early_stop is None:
        return {}
    kept: dict[str, NotStarted] = {}
    metric, out = spec.rank_by.metric, set[str]()
    for before, stage in pairwise(stages(runs)):
        entered = {run.variant: job.score if (job := observed.jobs.get(run.name)) else None
                   for run in before if run.variant not in out}
        under_way = [run for run in before if run.variant not in out and run.name not in unpaid
                     and not _has_ended(observed.jobs.get(run.name))]
        if not under_way:
            out |= entered.keys() - survivors(entered, spec.early_stop.keep, metric)
        for run in stage:
            if run.name in observed.jobs or run.name in observed.published:
                continue
            if run.variant in out:
                kept[run.name] = NotStarted(ExperimentReason.HALVED, f"its variant was not among the best "
                                            f"{spec.early_stop.keep:.0%} by {metric} after {before[0].share:g} of the "
                                            "steps")
            elif under_way:
                kept[run.name] = NotStarted(ExperimentReason.WAITING, f"it waits until all variants have trained "
                                            f"{before[0].share:g} of their steps")
    return kept


def _has_ended(job: ObservedJob | None) -> bool:
    return job is not None and job.has_ended


def _reserved(spec: FineTuneExperimentSpec, runs: Sequence[Run], gates: Mapping[str, NotStarted]) -> Decimal:
    """The weight of the jobs behind a rung, which will need money too: of them only the share that halving keeps."""
    later = sum((run.own_share for run in runs if run.name in gates
                 and gates[run.name].reason is ExperimentReason.WAITING), Decimal(0))
    return later * Decimal(str(spec.early_stop.keep if spec.early_stop else 1))


def _start(spec: FineTuneExperimentSpec, pending: Sequence[Run], observed: ObservedExperiment, reserved: Decimal
           ) -> tuple[list[CreateJob], dict[str, NotStarted]]:
    """The jobs to create now, and why the others are not created.

    Args:
        spec: the experiment's spec.
        pending: the jobs that may start.
        observed: what is known of all jobs.
        reserved: the weight of the jobs that cannot start yet.
    """
    busy = sum(not job.has_ended for job in observed.jobs.values())
    left = None if spec.budget.max_cost is None else spec.budget.max_cost - committed(observed)
    candidates = {run.name: _candidate(run, observed) for run in pending}
    started: list[CreateJob] = []
    not_started: dict[str, NotStarted] = {}
    for run in pending:
        candidate = candidates[run.name]
        if left is None:
            limit, payable = candidate.own_limit, True
        else:
            weights = sum((one.weight for one in candidates.values()), reserved)
            limit = limit_of_new_job(candidate, left, weights)
            payable = limit is not None
        if payable and run.name in observed.unchecked:  # Its money is reserved; its turn is free for the others.
            not_started[run.name] = NotStarted(ExperimentReason.PREFLIGHT, "the check before its start has not ended")
        elif payable and busy < spec.parallelism:
            started.append(CreateJob(run, limit))
            busy, left = busy + 1, None if left is None else left - (limit or Decimal(0))
            del candidates[run.name]
        elif payable:
            not_started[run.name] = NotStarted(ExperimentReason.WAITING, "it waits for its turn")
        elif busy:
            not_started[run.name] = NotStarted(ExperimentReason.WAITING, "it waits for money that running jobs may "
                                               "leave")
        else:
            not_started[run.name] = NotStarted(ExperimentReason.BUDGET_SPENT, _unpaid(candidate, left or Decimal(0)))
            del candidates[run.name]  # Its share is free for the others.
    return started, not_started


def _candidate(run: Run, observed: ObservedExperiment) -> Candidate:
    estimate = observed.estimates.get(run.name)
    return Candidate(run.own_share, run.job.spec.budget.max_cost, None if estimate is None else run.own_part(estimate))


def _unpaid(candidate: Candidate, left: Decimal) -> str:
    needs = f"; it is estimated to cost {candidate.estimate:f}" if candidate.estimate is not None else ""
    return f"{max(left, Decimal(0)):f} of spec.budget.maxCost is left{needs}. Raise spec.budget.maxCost"


def _limits(spec: FineTuneExperimentSpec, wanted: Mapping[str, Run], observed: ObservedExperiment,
            started: Sequence[CreateJob], waiting: bool) -> list[LimitJob]:
    """The limits of running jobs that change: because the budget did, or because nobody else needs what is left."""
    running = {name: job for name, job in observed.jobs.items() if not job.has_ended and name in wanted}
    own = {name: wanted[name].job.spec.budget.max_cost for name in running}
    if spec.budget.max_cost is None:
        return [LimitJob(name, own[name]) for name, job in running.items() if job.max_cost != own[name]]
    if not running:
        return []
    others = committed(observed) - sum((max(job.spent, job.max_cost or Decimal(0)) for job in running.values()),
                                       Decimal(0))
    allowed = spec.budget.max_cost - others - sum((one.max_cost or Decimal(0) for one in started), Decimal(0))
    changed = limits_of_running_jobs(running, own, allowed, may_rise=not started and not waiting)
    return [LimitJob(name, limit) for name, limit in changed.items()]
