"""The facts of a finished experiment: what its jobs published, their comparison, and a line for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from finetune_api.experiment.comparison import Comparison, VariantComparison
from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.experiment.status import ExperimentRun, FineTuneExperimentStatus, RankedVariant, RunPhase
from finetune_api.experiment.summary import has_result
from finetune_api.messages import Manifest, RowScores, SampleAnswers
from finetune_api.spec.evaluation import Metric
from finetune_api.status.evaluation import headline

from finetune_trainer.evaluation.comparison import Difference
from finetune_trainer.evaluation.scores import Scores
from finetune_trainer.report.svg import Point


@dataclass(frozen=True)
class JobResult:
    """What one job of an experiment published. What could not be read is missing.

    Attributes:
        method: the usual name of its method.
        manifest: the manifest.
        rows: the scores of single held-out rows.
        answers: the answers to the first held-out questions.
        losses: the training loss over steps, as the report draws it.
    """

    method: str
    manifest: Manifest | None = None
    rows: RowScores | None = None
    answers: SampleAnswers | None = None
    losses: Sequence[Point] = ()

    def scores(self, side: str) -> Scores:
        """The scores on held-out rows: `before`, `after`, or of the `reference`."""
        evaluation = self.manifest.result.evaluation if self.manifest else None
        return (getattr(evaluation, side) if evaluation else None) or {}


@dataclass(frozen=True)
class ExperimentFacts:
    """All facts that the page shows. None of them is secret.

    Attributes:
        resource: the experiment.
        status: its status, with the ranking.
        comparison: the comparison that the ranking is made from.
        results: what each job published, by the name of the job.
        created: when the page was made.
        gains: what training has changed, by variant, where that is known.
    """

    resource: FineTuneExperiment
    status: FineTuneExperimentStatus
    comparison: Comparison
    results: Mapping[str, JobResult]
    created: datetime
    gains: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """What the experiment ranks by."""
        return self.resource.spec.rank_by.metric

    @property
    def currency(self) -> str:
        """Currency of the costs."""
        return self.status.cost.currency if self.status.cost else "USD"

    @property
    def reference_score(self) -> float | None:
        """The metric of the reference model, where a job has asked one."""
        found = (headline(self.results[job].scores("reference"), self.metric)
                 for line in variant_lines(self.status) for job in line.jobs if job in self.results)
        return next((score for score in found if score is not None), None)

    def compared(self, variant: str) -> VariantComparison:
        """How a ranked variant compares with the best one."""
        return next(one for one in self.comparison.variants if one.variant == variant)

    def method(self, line: VariantLine) -> str:
        """The usual name of a variant's method; empty if that is not known."""
        return next((self.results[job].method for job in line.jobs if job in self.results), "")


@dataclass(frozen=True)
class VariantLine:
    """A ranked variant with everything that its jobs took.

    Attributes:
        ranked: its place and its score.
        settings: the values of the sweep; None without a sweep.
        jobs: the names of its jobs with a result.
        before: the metric before training, a mean over its jobs; None without a baseline.
        hours: of all its jobs, rungs included.
        tokens_per_second: in training, a mean over its jobs; None if that is not known.
        peak_bytes: peak memory of one accelerator, the largest of its jobs; None if that is not known.
        adapters: the locations of what was published.
    """

    ranked: RankedVariant
    settings: str | None
    jobs: tuple[str, ...]
    before: float | None
    hours: float
    tokens_per_second: float | None
    peak_bytes: int | None
    adapters: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.ranked.variant

    @property
    def cost(self) -> Decimal:
        """What all its jobs cost."""
        return self.ranked.cost


def variant_lines(status: FineTuneExperimentStatus) -> list[VariantLine]:
    """A line for each ranked variant, the best score first."""
    return [_line(one, [run for run in status.runs if run.variant == one.variant]) for one in status.ranking]


def without_result(status: FineTuneExperimentStatus) -> list[ExperimentRun]:
    """The jobs that failed or were skipped."""
    return [run for run in status.runs if run.phase in (RunPhase.FAILED, RunPhase.SKIPPED)]


def _line(ranked: RankedVariant, runs: Sequence[ExperimentRun]) -> VariantLine:
    whole = [run for run in runs if has_result(run)]
    return VariantLine(
        ranked=ranked, settings=next((run.settings for run in runs if run.settings), None),
        jobs=tuple(run.job for run in whole), before=_mean([run.before for run in whole]),
        hours=sum(run.hours or 0.0 for run in runs if run.phase is RunPhase.SUCCEEDED),
        tokens_per_second=_mean([run.tokens_per_second or None for run in whole]),
        peak_bytes=max((run.peak_bytes for run in whole if run.peak_bytes), default=None),
        adapters=tuple(run.adapter for run in whole if run.adapter))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
