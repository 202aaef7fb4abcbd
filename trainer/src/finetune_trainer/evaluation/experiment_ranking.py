"""The comparison and the ranking of an experiment's jobs, from what they have published. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune_api.experiment.comparison import Comparison
from finetune_api.experiment.ranking import Ranking, rank
from finetune_api.experiment.spec import RankBy
from finetune_api.experiment.status import ExperimentRun
from finetune_api.experiment.summary import results_by_variant, stopped_early, variant_costs
from finetune_api.messages import RowScores
from finetune_api.spec.evaluation import Metric

from finetune_trainer.evaluation.comparison import Difference, VariantResult, compare, gains


def rank_jobs(rows: Sequence[ExperimentRun], scores: Mapping[str, RowScores | None], rank_by: RankBy, currency: str
              ) -> tuple[Comparison, Ranking]:
    """Compare the variants that have a result, and rank them. Of equal scores the cheaper one is first.

    Args:
        rows: what is known of each job.
        scores: the scores of single held-out rows, by the name of the job.
        rank_by: the metric and the tolerance.
        currency: of the costs.
    """
    costs = variant_costs(rows)
    results = sorted(_results(rows, scores), key=lambda result: costs[result.variant])
    comparison = compare(results, rank_by.metric)
    return comparison, rank(comparison, costs, rank_by, currency, stopped_early(rows))


def job_gains(rows: Sequence[ExperimentRun], scores: Mapping[str, RowScores | None], metric: Metric
              ) -> dict[str, Difference]:
    """What training has changed, by variant, where its jobs were evaluated before training too.

    Args:
        rows: what is known of each job.
        scores: the scores of single held-out rows, by the name of the job.
        metric: what the experiment ranks by.
    """
    return gains(_results(rows, scores), metric)


def _results(rows: Sequence[ExperimentRun], scores: Mapping[str, RowScores | None]) -> list[VariantResult]:
    return [VariantResult(variant, [row.after or 0.0 for row in each], [scores.get(row.job) for row in each])
            for variant, each in results_by_variant(rows).items()]
