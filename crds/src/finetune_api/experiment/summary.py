"""The status of an experiment, made from what is known of its jobs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from finetune_api.experiment.expansion import Run
from finetune_api.experiment.plan import ExperimentPlan
from finetune_api.experiment.ranking import Ranking
from finetune_api.experiment.status import (
    ENDED_PHASES,
    MOST_ROWS,
    ExperimentCost,
    ExperimentPhase,
    ExperimentReason,
    ExperimentRun,
    FineTuneExperimentStatus,
    RunPhase,
)
from finetune_api.reasons import Outcome
from finetune_api.spec.evaluation import Metric
from finetune_api.status.conditions import Condition, ConditionStatus, ConditionType
from finetune_api.values.money import rounded_amount

_DONE = {RunPhase.SUCCEEDED, RunPhase.FAILED, RunPhase.SKIPPED}
_LONGEST_MESSAGE = 4096


@dataclass(frozen=True)
class ExperimentState:
    """What the conditions of an experiment say.

    Attributes:
        phase: the experiment's phase.
        reason: one word, for programs.
        message: one or two sentences, for people.
        valid: whether the experiment can be run as it is.
    """

    phase: ExperimentPhase
    reason: ExperimentReason
    message: str
    valid: bool = True


@dataclass(frozen=True)
class KnownRuns:
    """What is known of an experiment's jobs.

    Attributes:
        runs: all of them, in the order in which they run.
        rows: those that exist or have ended, by name.
        decided: what happens next.
        metric: of the scores in `rows`.
        ranking: of the variants with a result; None while jobs run.
        spent_before: what was spent by jobs that are not in `rows`.
        currency: of all amounts.
        removed: jobs that exist and are not in the experiment any more.
        state: what the conditions say; None where it follows from the jobs.
        has_begun: whether a job was started, beside jobs whose result was published before.
        remark: what the message of the conditions says at its end.
    """

    runs: Sequence[Run]
    rows: Mapping[str, ExperimentRun]
    decided: ExperimentPlan
    metric: Metric
    ranking: Ranking | None = None
    spent_before: Decimal = Decimal(0)
    currency: str = "USD"
    removed: tuple[ExperimentRun, ...] = ()
    state: ExperimentState | None = None
    has_begun: bool = True
    remark: str = ""

    @property
    def listed(self) -> tuple[ExperimentRun, ...]:
        """A row for each job, also for those that are not started."""
        return tuple(self.rows.get(run.name) or self._not_started(run) for run in self.runs)

    def _not_started(self, run: Run) -> ExperimentRun:
        why = self.decided.not_started.get(run.name)
        return row_of(run, why.phase if why else RunPhase.PENDING, why.reason if why else ExperimentReason.WAITING,
                      why.message if why else None)


def row_of(run: Run, phase: RunPhase, reason: str, message: str | None = None) -> ExperimentRun:
    """The row of a job of which nothing else is known."""
    row = ExperimentRun(variant=run.variant, settings=run.settings[:512] or None, job=run.name, seed=run.seed,
                        rung=None if run.rung is None else run.share, phase=phase, reason="")
    return in_phase(row, phase, reason, message)


def in_phase(row: ExperimentRun, phase: RunPhase, reason: str, message: str | None) -> ExperimentRun:
    """The row of a job that is in a phase, and why."""
    return row.model_copy(update={"phase": phase, "reason": reason[:64],
                                  "message": message if message is None else message[:1024]})


def has_result(row: ExperimentRun) -> bool:
    """Whether a job was trained to its end and has a score."""
    return row.phase is RunPhase.SUCCEEDED and row.rung is None and row.after is not None


def results_by_variant(rows: Sequence[ExperimentRun]) -> dict[str, list[ExperimentRun]]:
    """The jobs of each variant that have a result."""
    found: dict[str, list[ExperimentRun]] = {}
    for row in filter(has_result, rows):
        found.setdefault(row.variant, []).append(row)
    return found


def stopped_early(rows: Sequence[ExperimentRun]) -> list[str]:
    """The variants of which a job has a result, and has not trained all of its steps."""
    return list(dict.fromkeys(row.variant for row in rows if has_result(row) and row.reason == Outcome.STOPPED_EARLY))


def variant_costs(rows: Sequence[ExperimentRun]) -> dict[str, Decimal]:
    """What all jobs of each variant cost, rungs and failed ones included."""
    costs: dict[str, Decimal] = {}
    for row in rows:
        costs[row.variant] = costs.get(row.variant, Decimal(0)) + (row.cost or Decimal(0))
    return costs


def summarize(known: KnownRuns, suspended: bool, previous: FineTuneExperimentStatus | None, generation: int,
              now: datetime) -> FineTuneExperimentStatus:
    """The status of an experiment.

    Args:
        known: its jobs.
        suspended: `spec.suspend`.
        previous: the status before: its start, its report and its transition times stay.
        generation: the generation of the spec that was observed.
        now: the time, in UTC.
    """
    rows = known.listed
    state = known.state or _state_of_jobs(known, rows, suspended)
    previous = previous or FineTuneExperimentStatus()
    started = previous.start_time or (now if known.rows and (known.has_begun or known.decided.finished) else None)
    spent = known.spent_before + sum((row.cost or Decimal(0) for row in (*rows, *known.removed)), Decimal(0))
    done = sum(row.phase in _DONE for row in rows)
    return with_state(previous, state, generation, now).model_copy(update={
        "runs": (*rows, *known.removed)[:MOST_ROWS], "done": f"{done}/{len(rows)}", "metric": str(known.metric),
        "ranking": known.ranking.variants if known.ranking else (),
        "winner": known.ranking.winner if known.ranking else None,
        "conclusion": known.ranking.conclusion if known.ranking else None,
        "cost": ExperimentCost(spent=rounded_amount(spent), currency=known.currency,
                               removed=rounded_amount(known.spent_before) if known.spent_before else None,
                               saved=rounded_amount(known.decided.saved) if known.decided.saved else None),
        "start_time": started,
        "completion_time": (previous.completion_time or now) if state.phase in ENDED_PHASES else None,
    })


def with_state(status: FineTuneExperimentStatus, state: ExperimentState, generation: int, now: datetime
               ) -> FineTuneExperimentStatus:
    """The status with other conditions and another phase; everything else stays as it is."""
    return status.model_copy(update={
        "phase": state.phase, "observed_generation": generation,
        "conditions": tuple(_conditions(status, state, generation, now))})


def _state_of_jobs(known: KnownRuns, rows: Sequence[ExperimentRun], suspended: bool) -> ExperimentState:
    phase, reason = ExperimentPhase.RUNNING, ExperimentReason.RUNNING
    if suspended:
        phase, reason = ExperimentPhase.SUSPENDED, ExperimentReason.SUSPENDED
    elif known.decided.finished and any(row.phase is RunPhase.SUCCEEDED and row.rung is None for row in rows):
        phase, reason = ExperimentPhase.SUCCEEDED, ExperimentReason.FINISHED
    elif known.decided.finished:
        phase, reason = ExperimentPhase.FAILED, ExperimentReason.NOTHING_SUCCEEDED
    return ExperimentState(phase, reason, _message(rows, known))


def _message(rows: Sequence[ExperimentRun], known: KnownRuns) -> str:
    """How many jobs are in each phase, who won, and what else there is to say."""
    counts = Counter(row.phase for row in rows)
    words = ", ".join(f"{counts[phase]} {phase.lower()}" for phase in RunPhase if counts[phase])
    conclusion = known.ranking.conclusion.rstrip(".") if known.ranking else ""
    return ". ".join(filter(None, (f"{len(rows)} jobs: {words}", conclusion, known.remark)))


def _conditions(previous: FineTuneExperimentStatus, state: ExperimentState, generation: int, now: datetime
                ) -> Iterator[Condition]:
    before = {condition.type: condition for condition in previous.conditions}
    phase, message = state.phase, state.message[:_LONGEST_MESSAGE]

    def condition(kind: ConditionType, holds: bool, why: ExperimentReason = state.reason, words: str = message
                  ) -> Condition:
        value = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        old = before.get(kind)
        since = old.last_transition_time if old and old.observed_generation and old.status == value else now
        return Condition(type=kind, status=value, reason=why, message=words, observed_generation=generation,
                         last_transition_time=since)

    finished = phase in ENDED_PHASES
    working = not finished and state.valid and phase is not ExperimentPhase.SUSPENDED
    if state.valid:
        yield condition(ConditionType.VALIDATED, True, ExperimentReason.VALID, "every variant is a job that can run")
    else:
        yield condition(ConditionType.VALIDATED, False)
    yield condition(ConditionType.PROGRESSING, working)
    yield condition(ConditionType.RECONCILING, working)
    if finished:
        yield condition(ConditionType.FINISHED, True)
        yield condition(ConditionType.SUCCEEDED, phase is ExperimentPhase.SUCCEEDED)
        yield condition(ConditionType.FAILED, phase is ExperimentPhase.FAILED)
    if phase is ExperimentPhase.FAILED or not state.valid:
        yield condition(ConditionType.STALLED, True)
