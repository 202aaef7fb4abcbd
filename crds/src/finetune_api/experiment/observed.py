"""What is known of an experiment's jobs when its next step is decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from finetune_api.experiment.status import RunPhase

ENDED = frozenset({RunPhase.SUCCEEDED, RunPhase.FAILED})


@dataclass(frozen=True)
class ObservedJob:
    """A job of the experiment that exists, or that has ended and is remembered.

    Attributes:
        phase: `Running` from its creation on, `Suspended`, `Succeeded` or `Failed`.
        spent: what it has spent.
        max_cost: its `budget.maxCost`.
        score: the ranking's metric after training; None where there is none.
        held: whether the experiment has suspended it. A job that somebody else suspended stays so.
    """

    phase: RunPhase
    spent: Decimal = Decimal(0)
    max_cost: Decimal | None = None
    score: float | None = None
    held: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it never runs again."""
        return self.phase in ENDED


@dataclass(frozen=True)
class ObservedExperiment:
    """Everything that is known of an experiment's jobs.

    Attributes:
        jobs: by name; those of removed variants too.
        spent_before: what was spent by jobs that exist no more, and are not remembered.
        estimates: what a job is estimated to cost, by name; a job whose estimate is not known is missing.
        unchecked: names of jobs that must be checked before they start.
        published: names of jobs whose result is in the output: it is taken over, without a run.
    """

    jobs: Mapping[str, ObservedJob]
    spent_before: Decimal = Decimal(0)
    estimates: Mapping[str, Decimal] = field(default_factory=dict)
    unchecked: Collection[str] = ()
    published: Collection[str] = ()

    @property
    def spent(self) -> Decimal:
        """What all jobs have spent."""
        return self.spent_before + sum((job.spent for job in self.jobs.values()), Decimal(0))
