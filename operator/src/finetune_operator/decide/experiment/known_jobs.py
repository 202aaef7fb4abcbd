"""What is known of an experiment's jobs: from the jobs, and for those that are gone from its status. Pure.

Money is never lost: what a job spent that was deleted, or whose variant was removed, is counted in `cost.removed`. A
row has the uid of its job, so a job that was deleted and created again is told from the one before. All of it follows
from the stored status and the jobs that exist, so a pass that was killed before it wrote the status changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from finetune_api.experiment.expansion import Run
from finetune_api.experiment.observed import ENDED, ObservedExperiment, ObservedJob
from finetune_api.experiment.status import ExperimentReason, ExperimentRun, FineTuneExperimentStatus, RunPhase
from finetune_api.experiment.summary import in_phase, row_of
from finetune_api.spec.evaluation import Metric
from finetune_api.spec.policy import PreflightPolicy
from finetune_api.status import ConditionStatus, ConditionType, Phase
from finetune_api.status.evaluation import headline
from finetune_api.values.money import rounded_amount

from finetune_operator.decide.conditions import progressing_condition
from finetune_operator.decide.cost import time_of_ended_attempts
from finetune_operator.manifests.experiment_job import written_hash
from finetune_operator.observed.job import JobView

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class KnownJobs:
    """What is known of the jobs of an experiment.

    Attributes:
        rows: the jobs that were started or have ended, by name.
        removed: those that exist and are not in the experiment any more.
        held: the jobs that exist and wait for their start, by name.
        outdated: names of jobs that wait for their start, and were created before an edit of the experiment.
        removed_cost: what was spent by jobs without a row.
        observed: the same for the planner.
        has_begun: whether a job of the experiment was ever started.
        deleted: uids of jobs that somebody deleted before they ended, by name.
    """

    rows: Mapping[str, ExperimentRun]
    removed: tuple[ExperimentRun, ...]
    held: Mapping[str, JobView]
    outdated: frozenset[str]
    removed_cost: Decimal
    observed: ObservedExperiment
    has_begun: bool
    deleted: Mapping[str, str] = field(default_factory=dict)

    def is_checked(self, name: str) -> bool:
        """Whether a job is held, and its check has found no problem."""
        job = self.held.get(name)
        return job is not None and _is_checked(job)


def known_jobs(status: FineTuneExperimentStatus, runs: Sequence[Run], jobs: Mapping[str, JobView], metric: Metric
               ) -> KnownJobs:
    """What is known of an experiment's jobs.

    Args:
        status: the status that was written last.
        runs: the jobs that the experiment wants.
        jobs: the jobs that exist, by name.
        metric: that the experiment ranks by.
    """
    wanted = {run.name: run for run in runs}
    outdated = {name for name, job in jobs.items() if name in wanted and _is_outdated(job, wanted[name])}
    held = {name: job for name, job in jobs.items() if is_held(job) and name not in outdated}
    started = {name: job for name, job in jobs.items() if not is_held(job)}
    remembered, removed_cost = _remembered(status, wanted, jobs, metric)
    begun = status.start_time is not None or bool(remembered) or any(has_started(job) for job in started.values())
    if begun:  # A job that its check refuses later is one that failed; before, the whole experiment is refused.
        started |= {name: job for name, job in held.items() if name in wanted and refusal(job) is not None}
        held = {name: job for name, job in held.items() if name not in started}
    # In the order of the runs, whatever the order of the jobs: of equal scores and costs the first is ranked first.
    rows = {run.name: _row(row_of(run, RunPhase.RUNNING, ""), started[run.name], metric)
            if run.name in started else remembered[run.name]
            for run in runs if run.name in started or run.name in remembered}
    earlier = {row.job: row for row in status.runs}
    removed = tuple(_removed_row(job, earlier.get(name)) for name, job in sorted(started.items())
                    if name not in wanted)
    observed = {row.job: _observed(row, jobs.get(row.job)) for row in (*rows.values(), *removed)}
    estimates = {name: cost for name, job in held.items() if (cost := _estimate(job)) is not None}
    unchecked = frozenset(run.name for run in runs if run.job.spec.run_policy.preflight is PreflightPolicy.REQUIRED
                          and (run.name not in held or not _is_checked(held[run.name])))
    deleted = {row.job: row.uid for row in status.runs if row.uid and row.job not in (*jobs, *rows)}
    return KnownJobs(rows, removed, held, frozenset(outdated), removed_cost,
                     ObservedExperiment(observed, removed_cost, estimates, unchecked), begun, deleted)


def observed_again(status: FineTuneExperimentStatus, jobs: Mapping[str, JobView]) -> FineTuneExperimentStatus:
    """The status with what is known of its jobs now: of an experiment that cannot go on, while its jobs do.

    Args:
        status: the status that was written last.
        jobs: the jobs that exist, by name.
    """
    rows = [_row(row, job, status.metric) if status.metric and row.reason != ExperimentReason.REMOVED
            and (job := jobs.get(row.job)) is not None and job.uid == row.uid else row for row in status.runs]
    if status.cost is None:
        return status
    spent = sum((row.cost or Decimal(0) for row in rows), status.cost.removed or Decimal(0))
    return status.model_copy(update={
        "runs": tuple(rows), "cost": status.cost.model_copy(update={"spent": rounded_amount(spent)})})


def _remembered(status: FineTuneExperimentStatus, wanted: Mapping[str, Run], jobs: Mapping[str, JobView],
                metric: Metric) -> tuple[dict[str, ExperimentRun], Decimal]:
    """The rows of jobs that have ended and are gone, and what all other jobs that are gone have spent."""
    kept: dict[str, ExperimentRun] = {}
    spent = (status.cost.removed if status.cost else None) or Decimal(0)
    for row in status.runs:
        job = jobs.get(row.job)
        if job is not None and row.uid in (job.uid, None):
            continue
        if job is None and row.phase in ENDED and row.uid is not None and row.job in wanted:
            kept[row.job] = row if status.metric in (None, metric) else _without_scores(row, metric)
        else:
            spent += row.cost or Decimal(0)
    return kept, spent


def _without_scores(row: ExperimentRun, metric: Metric) -> ExperimentRun:
    """The row of a job that is gone, after another metric was chosen: its score by that one was not kept."""
    return row.model_copy(update={"before": None, "after": None,
                                  "message": f"the job is gone, and its {metric} with it"})


def is_held(job: JobView) -> bool:
    """Whether a job waits for its experiment to start it."""
    suspended = job.spec is not None and job.spec.run_policy.suspend
    return job.held and suspended and job.status.start_time is None and job.status.completion_time is None


def _is_outdated(job: JobView, run: Run) -> bool:
    """Whether a job that waits for its start was created from another spec than the experiment has now."""
    return is_held(job) and job.written_hash not in (None, written_hash(run))


def is_running(job: JobView) -> bool:
    """Whether a job runs, or will without anybody's doing."""
    return _phase(job) is RunPhase.RUNNING


def has_started(job: JobView) -> bool:
    """Whether a job may have cost money. One that adopted a published result has not."""
    return job.status.completion_time is None or bool(job.status.attempts)


def _is_checked(job: JobView) -> bool:
    """Whether the check of a held job has found no problem, or the job needs none."""
    if job.spec is not None and job.spec.run_policy.preflight is PreflightPolicy.SKIP:
        return job.status.observed_generation is not None
    return job.status.preflight is not None and job.status.preflight.checked_hash is not None


def refusal(job: JobView) -> str | None:
    """Why the operator refuses a job that has not started; None if it does not."""
    if job.status.start_time is not None:
        return None
    return next((one.message for one in job.status.conditions if one.type is ConditionType.VALIDATED
                 and one.status is ConditionStatus.FALSE and one.observed_generation == job.generation), None)


def _estimate(job: JobView) -> Decimal | None:
    return job.status.preflight.cost if job.status.preflight else None


def _phase(job: JobView) -> RunPhase:
    if job.status.completion_time is not None:
        return RunPhase.SUCCEEDED if job.status.phase is Phase.SUCCEEDED else RunPhase.FAILED
    if refusal(job) is not None:
        return RunPhase.FAILED
    suspended = job.spec is not None and job.spec.run_policy.suspend
    return RunPhase.SUSPENDED if suspended else RunPhase.RUNNING


def _row(row: ExperimentRun, job: JobView, metric: str) -> ExperimentRun:
    """A row with what is known of its job now."""
    status, phase = job.status, _phase(job)
    condition = progressing_condition(status)
    reason, message = (condition.reason, condition.message) if condition else (str(phase), None)
    scores = status.evaluation
    return in_phase(row, phase, reason, refusal(job) or message).model_copy(update={
        "uid": job.uid, "cost": status.cost.spent if status.cost else None, "max_cost": _limit(job),
        "before": headline(scores.before or {}, metric) if scores else None,
        "after": headline(scores.after or {}, metric) if scores else None,
        "hours": _hours(job), "adapter": status.adapter.uri[:2048] if status.adapter else None,
        # While it runs these change with every poll.
        "tokens_per_second": status.progress.tokens_per_second if status.progress and phase in ENDED else None,
        "peak_bytes": status.memory.peak_bytes if status.memory and phase in ENDED else None,
    })


def _limit(job: JobView) -> Decimal | None:
    return job.limits[0].max_cost if job.limits else None


def _hours(job: JobView) -> float | None:
    seconds = time_of_ended_attempts(job.status).total_seconds()
    return round(seconds / _SECONDS_PER_HOUR, 4) if seconds else None


def _removed_row(job: JobView, earlier: ExperimentRun | None) -> ExperimentRun:
    """The row of a job that is not in the experiment any more: what it costs is known until it is gone."""
    row = earlier or ExperimentRun(variant="(removed)", job=job.name, seed=job.spec.training.seed if job.spec else 0,
                                   phase=RunPhase.RUNNING, reason=ExperimentReason.REMOVED)
    return row.model_copy(update={
        "uid": job.uid, "phase": _phase(job), "reason": str(ExperimentReason.REMOVED),
        "message": "its variant is not in the experiment any more", "max_cost": _limit(job),
        "cost": job.status.cost.spent if job.status.cost else None})


def _observed(row: ExperimentRun, job: JobView | None = None) -> ObservedJob:
    return ObservedJob(row.phase, row.cost or Decimal(0), row.max_cost, row.after, held=job is not None and job.held)
