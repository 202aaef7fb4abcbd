"""The decision about an experiment: what is created, changed and deleted, and what the status says. Pure.

`finetune_api.experiment.plan` decides which job starts next and what it may spend. Here its jobs are FineTuneJobs: each
exists from the beginning, suspended, so that it is checked before the first one starts; to create it means to start it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.experiment.comparison import compare_scores
from finetune_api.experiment.expansion import Run
from finetune_api.experiment.observed import ENDED
from finetune_api.experiment.plan import (
    CreateJob,
    ExperimentPlan,
    LimitJob,
    NotStarted,
    ResumeJob,
    StopJob,
    SuspendJob,
    plan,
)
from finetune_api.experiment.ranking import Ranking, rank
from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.spec import RankBy
from finetune_api.experiment.status import MOST_ROWS, ExperimentPhase, ExperimentReason, FineTuneExperimentStatus
from finetune_api.experiment.summary import (
    ExperimentState,
    KnownRuns,
    has_result,
    results_by_variant,
    stopped_early,
    summarize,
    variant_costs,
    with_state,
)
from finetune_api.job import KIND
from finetune_api.reading.loading import InvalidJob
from finetune_api.rules import STORED_RULES, broken_rules
from finetune_api.status import ConditionType
from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.decide.actions import Create, Delete
from finetune_operator.decide.admission import spec_problems
from finetune_operator.decide.conditions import EventRecord, StoredReason
from finetune_operator.decide.experiment.actions import OwnedAction, PatchOwned
from finetune_operator.decide.experiment.first_start import why_not_started
from finetune_operator.decide.experiment.known_jobs import KnownJobs, is_running, known_jobs, observed_again
from finetune_operator.decide.experiment.report import EndedExperiment, ReportStep, plan_report, remove_reports
from finetune_operator.manifests.experiment_job import (
    held_job,
    limit_of_job,
    resumption,
    start_of_job,
    suspension,
)
from finetune_operator.observed.experiment import ExperimentObservation, ExperimentView
from finetune_operator.observed.job import JobView
from finetune_operator.settings import Settings

_SHOWN_ERRORS = 10
_CHECKING = NotStarted(ExperimentReason.PREFLIGHT, "the check before its start has not ended")
_CHECKED = NotStarted(ExperimentReason.PREFLIGHT, "it is checked, and waits for the checks of the others")


@dataclass(frozen=True)
class ExperimentDecision:
    """What to do: the actions in their order, then one write of the status, then the deletions and the events.

    Attributes:
        deletions: what to delete, once the status says what it has spent or found.
        requeue_after: decide again after this time, even if nothing happens; None to wait for the next change.
    """

    status: FineTuneExperimentStatus
    actions: tuple[OwnedAction, ...] = ()
    deletions: tuple[Delete, ...] = ()
    events: tuple[EventRecord, ...] = ()
    requeue_after: timedelta | None = None


def plan_experiment(observation: ExperimentObservation, settings: Settings, now: datetime) -> ExperimentDecision:
    """Decide about one experiment.

    Args:
        observation: everything that is known about it.
        settings: the administrator's settings.
        now: the time, in UTC.
    """
    now = now.replace(microsecond=0)
    view, experiment = observation.view, observation.experiment
    if view.deleting:  # Owner references delete its jobs.
        return ExperimentDecision(view.status)
    if isinstance(experiment, InvalidJob):
        ended = any(one.type is ConditionType.FINISHED for one in view.status.conditions)
        if ended and view.status.observed_generation == view.generation:
            return ExperimentDecision(view.status)  # It ended under an earlier release, which accepted it.
        return _refused(observation, [str(error) for error in experiment.errors] or [experiment.origin], now)
    spec, runs = experiment.resource.spec, experiment.runs
    known = known_jobs(view.status, runs, observation.jobs, spec.rank_by.metric)
    decided, state = plan(spec, runs, known.observed), None
    if not decided.finished and (problems := _problems(runs, known, settings)):
        return _refused(observation, problems, now)
    if not known.has_begun and not spec.suspend and any(run.name not in known.rows for run in runs):
        state = why_not_started(spec, runs, known, settings.currency)
    if state is not None:
        decided = _before_start(decided, experiment, known)
    ranking = _ranking(known, spec.rank_by, settings.currency) if decided.finished else None
    known_runs = KnownRuns(runs, known.rows, decided, spec.rank_by.metric, ranking, known.removed_cost,
                           settings.currency, known.removed, state, known.has_begun)
    made = _with_report(observation, experiment, known_runs, settings, now)
    return replace(made, actions=(*_actions(observation, experiment, known, decided), *made.actions),
                   deletions=(*_deletions(observation, experiment, known, decided), *made.deletions),
                   events=events_of(view.status, made.status))


def _with_report(observation: ExperimentObservation, experiment: Experiment, known: KnownRuns, settings: Settings,
                 now: datetime) -> ExperimentDecision:
    """The status, and what is to be done about the report."""
    view, suspended = observation.view, experiment.resource.spec.suspend
    step = _report_step(observation, experiment, known, settings, now)
    if step is None or (suspended and step.waiting):
        status = summarize(known, suspended and (step is not None or not known.decided.finished), view.status,
                           view.generation, now)
        # The next report is another one: the ranking of this one is not kept.
        return ExperimentDecision(status.model_copy(update={"reporting": None}),
                                  deletions=remove_reports(view, observation.reports))
    state = ExperimentState(ExperimentPhase.RUNNING, ExperimentReason.REPORTING, step.waiting) if step.waiting else None
    known = replace(known, ranking=step.ranking, state=state, remark=step.remark)
    status = summarize(known, False, view.status, view.generation, now).model_copy(update={
        "report": step.location, "reporting": step.record})
    return ExperimentDecision(status, step.actions, step.deletions, requeue_after=step.requeue_after)


def _report_step(observation: ExperimentObservation, experiment: Experiment, known: KnownRuns, settings: Settings,
                 now: datetime) -> ReportStep | None:
    """What to do about the report; None if the jobs have not ended, or there is nothing to report."""
    view, rows = observation.view, known.listed
    if known.ranking is None or not any(map(has_result, rows)):
        return None
    if view.status.completion_time and view.status.reporting is None and view.status.observed_generation \
            == view.generation:
        return None  # A release that writes no report has ended it.
    status = summarize(replace(known, ranking=None), False, view.status, view.generation, now)
    without = status.model_copy(update={"report": None, "reporting": None})
    return plan_report(EndedExperiment(observation, experiment, rows, without, known.ranking), settings, now)


def _problems(runs: Sequence[Run], known: KnownJobs, settings: Settings) -> list[str]:
    """Everything that keeps variants from being started. A job that was started is judged on its own."""
    left = {run.variant for run in runs if run.name not in known.rows}
    return [f"variant {run.variant}: {problem}" for run in runs
            if run.variant in left and run.repeat == 0 and run.rung is None
            for problem in (*spec_problems(run.job.spec, settings),
                            *(f"{one.path}: {one.message}" for one in broken_rules(run.document, STORED_RULES)))]


def _refused(observation: ExperimentObservation, problems: Sequence[str], now: datetime) -> ExperimentDecision:
    """The decision about an experiment that cannot be run: nothing starts, and what runs goes on or is suspended."""
    view = observation.view
    more = [f"and {len(problems) - _SHOWN_ERRORS} more errors"] if len(problems) > _SHOWN_ERRORS else []
    state = ExperimentState(view.status.phase or ExperimentPhase.PENDING, ExperimentReason.INVALID_VARIANT,
                            "; ".join((*problems[:_SHOWN_ERRORS], *more)), valid=False)
    status = with_state(observed_again(view.status, observation.jobs), state, view.generation, now)
    suspended = [PatchOwned(job, suspension()) for job in observation.jobs.values()
                 if view.spec.get("suspend") is True and is_running(job) and not job.deleting]
    return ExperimentDecision(status, tuple(suspended), events=events_of(view.status, status))


def report_problem(view: ExperimentView, status: FineTuneExperimentStatus, reason: ExperimentReason, message: str,
                   now: datetime) -> ExperimentDecision:
    """The decision that reports what went wrong in a pass; everything else of a decided status holds.

    Args:
        view: the experiment.
        status: that was decided, or the stored one.
        reason: `CannotStart` or `InternalError`.
        message: in words.
        now: the time, in UTC.
    """
    if status.completion_time is not None:  # How it ended is worth more.
        return ExperimentDecision(status, events=events_of(view.status, status))
    state = ExperimentState(status.phase or ExperimentPhase.PENDING, reason, message)
    changed = with_state(status, state, view.generation, now.replace(microsecond=0))
    return ExperimentDecision(changed, events=events_of(view.status, changed))


def _before_start(decided: ExperimentPlan, experiment: Experiment, known: KnownJobs) -> ExperimentPlan:
    """A plan that starts nothing: the checks have not ended, or found that the experiment cannot be run."""
    not_started = {run.name: _CHECKED if known.is_checked(run.name) else _CHECKING
                   for run in experiment.runs if run.name not in known.rows}
    return replace(decided, actions=tuple(one for one in decided.actions if isinstance(one, StopJob)),
                   not_started=not_started, finished=False)


def _actions(observation: ExperimentObservation, experiment: Experiment, known: KnownJobs, decided: ExperimentPlan
             ) -> Iterator[OwnedAction]:
    """The plan as changes of FineTuneJobs, and the jobs that do not exist yet."""
    for action in decided.actions:
        if isinstance(action, StopJob) or (isinstance(action, CreateJob) and not known.is_checked(action.run.name)):
            continue  # A job without a check starts as soon as it exists.
        job = observation.jobs[action.run.name if isinstance(action, CreateJob) else action.name]
        if not job.deleting:
            yield _on_job(action, job)
    if experiment.resource.spec.suspend:
        return
    halved = _halved(decided)
    for run in experiment.runs:
        if run.name not in observation.jobs and run.name not in known.rows and run.name not in halved:
            yield Create(held_job(observation.view, run, known.deleted.get(run.name)))


def _deletions(observation: ExperimentObservation, experiment: Experiment, known: KnownJobs, decided: ExperimentPlan
               ) -> Iterator[Delete]:
    """Jobs that nobody needs: those of removed variants that have not ended, those that halving gave up, and those that
    wait for their start and were created before an edit: the next pass creates them anew.

    If there are more ended jobs of removed variants than the status can list, the first ones that it lists are deleted
    too: it remembers what they cost.
    """
    wanted, halved = {run.name for run in experiment.runs}, _halved(decided)
    unneeded = [name for name in known.held if name not in wanted or name in halved]
    stopped = [one.name for one in decided.actions if isinstance(one, StopJob)]
    listed = [row.job for row in known.removed[:MOST_ROWS - len(wanted)] if row.phase in ENDED]
    surplus = listed[:max(len(wanted) + len(known.removed) - MOST_ROWS, 0)]
    yield from (Delete(f"{GROUP}/{VERSION}", KIND, name) for name in (*unneeded, *known.outdated, *stopped, *surplus)
                if not observation.jobs[name].deleting)


def _halved(decided: ExperimentPlan) -> frozenset[str]:
    return frozenset(name for name, one in decided.not_started.items() if one.reason is ExperimentReason.HALVED)


def _on_job(action: LimitJob | SuspendJob | ResumeJob | CreateJob, job: JobView) -> OwnedAction:
    """An action of the planner on the job that it is about."""
    match action:
        case LimitJob(_, max_cost):
            return PatchOwned(job, limit_of_job(max_cost))
        case SuspendJob():
            return PatchOwned(job, suspension())
        case ResumeJob():
            return PatchOwned(job, resumption())
        case CreateJob(run, max_cost):
            return PatchOwned(job, start_of_job(run, max_cost))


def _ranking(known: KnownJobs, rank_by: RankBy, currency: str) -> Ranking:
    """The ranking by the scores in the jobs' status. The scores of single rows are in the output, which is not read."""
    rows = list(known.rows.values())
    costs = variant_costs(rows)
    scores = {variant: [row.after or 0.0 for row in each] for variant, each in results_by_variant(rows).items()}
    cheapest_first = dict(sorted(scores.items(), key=lambda one: costs[one[0]]))
    return rank(compare_scores(cheapest_first, rank_by.metric), costs, rank_by, currency, stopped_early(rows))


def events_of(old: FineTuneExperimentStatus, new: FineTuneExperimentStatus) -> tuple[EventRecord, ...]:
    """The events of a change of status: one if the reason of Progressing or its generation changes."""
    before, after = ({str(one.type): one for one in status.conditions} for status in (old, new))
    current, earlier = after.get("Progressing"), before.get("Progressing")
    if current is None or (earlier and earlier.reason == current.reason
                           and earlier.observed_generation == current.observed_generation):
        return ()
    warning = "Stalled" in after or current.reason == ExperimentReason.CANNOT_START
    return (EventRecord("Warning" if warning else "Normal", StoredReason(current.reason), current.message,
                        str(current.observed_generation)),)
