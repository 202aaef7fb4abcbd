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
    ExperimentCost,
    ExperimentPhase,
    ExperimentReason,
    ExperimentRun,
    FineTuneExperimentStatus,
    RunPhase,
)
from finetune_api.status.conditions import Condition, ConditionStatus, ConditionType
from finetune_api.values.money import rounded_amount

_ENDED = {ExperimentPhase.SUCCEEDED, ExperimentPhase.FAILED}


@dataclass(frozen=True)
class KnownRuns:
    """What is known of an experiment's jobs.

    Attributes:
        runs: all of them, in the order in which they run.
        rows: those that exist or have ended, by name.
        decided: what happens next.
        ranking: of the variants with a result; None while jobs run.
        spent_before: what was spent by jobs that are not in `rows`.
        currency: of all amounts.
    """

    runs: Sequence[Run]
    rows: Mapping[str, ExperimentRun]
    decided: ExperimentPlan
    ranking: Ranking | None = None
    spent_before: Decimal = Decimal(0)
    currency: str = "USD"

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
    return ExperimentRun(
        variant=run.variant, settings=run.settings[:512] or None, job=run.name, seed=run.seed,
        rung=None if run.rung is None else run.share, phase=phase, reason=reason,
        message=message if message is None else message[:1024])


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
    phase, reason = _phase(known, rows, suspended)
    previous = previous or FineTuneExperimentStatus()
    started = previous.start_time or (now if known.rows else None)
    spent = known.spent_before + sum((row.cost or Decimal(0) for row in rows), Decimal(0))
    message = _message(rows, known.ranking)
    return previous.model_copy(update={
        "phase": phase, "observed_generation": generation, "runs": rows,
        "conditions": tuple(_conditions(previous, phase, reason, message, (generation, now))),
        "ranking": known.ranking.variants if known.ranking else (),
        "winner": known.ranking.winner if known.ranking else None,
        "conclusion": known.ranking.conclusion if known.ranking else None,
        "cost": ExperimentCost(spent=rounded_amount(spent), currency=known.currency,
                               removed=rounded_amount(known.spent_before) if known.spent_before else None,
                               saved=rounded_amount(known.decided.saved) if known.decided.saved else None),
        "start_time": started,
        "completion_time": (previous.completion_time or now) if phase in _ENDED else None,
    })


def _phase(known: KnownRuns, rows: Sequence[ExperimentRun], suspended: bool
           ) -> tuple[ExperimentPhase, ExperimentReason]:
    if known.decided.finished and not suspended:
        if any(row.phase is RunPhase.SUCCEEDED and row.rung is None for row in rows):
            return ExperimentPhase.SUCCEEDED, ExperimentReason.FINISHED
        return ExperimentPhase.FAILED, ExperimentReason.NOTHING_SUCCEEDED
    if suspended:
        return ExperimentPhase.SUSPENDED, ExperimentReason.SUSPENDED
    return ExperimentPhase.RUNNING, ExperimentReason.RUNNING


def _message(rows: Sequence[ExperimentRun], ranking: Ranking | None) -> str:
    """How many jobs are in each phase, and who won."""
    counts = Counter(row.phase for row in rows)
    words = ", ".join(f"{counts[phase]} {phase.lower()}" for phase in RunPhase if counts[phase])
    return f"{len(rows)} jobs: {words}" + (f". {ranking.conclusion}" if ranking else "")


def _conditions(previous: FineTuneExperimentStatus, phase: ExperimentPhase, reason: ExperimentReason, message: str,
                seen: tuple[int, datetime]) -> Iterator[Condition]:
    generation, now = seen
    before = {condition.type: condition for condition in previous.conditions}

    def condition(kind: ConditionType, holds: bool, why: ExperimentReason = reason, words: str = message) -> Condition:
        value = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        old = before.get(kind)
        since = old.last_transition_time if old and old.observed_generation and old.status == value else now
        return Condition(type=kind, status=value, reason=why, message=words, observed_generation=generation,
                         last_transition_time=since)

    finished = phase in _ENDED
    working = not finished and phase is not ExperimentPhase.SUSPENDED
    yield condition(ConditionType.VALIDATED, True, ExperimentReason.VALID, "every variant is a job that can run")
    yield condition(ConditionType.PROGRESSING, working)
    yield condition(ConditionType.RECONCILING, working)
    if finished:
        yield condition(ConditionType.FINISHED, True)
        yield condition(ConditionType.SUCCEEDED, phase is ExperimentPhase.SUCCEEDED)
        yield condition(ConditionType.FAILED, phase is ExperimentPhase.FAILED)
    if phase is ExperimentPhase.FAILED:
        yield condition(ConditionType.STALLED, True)
