"""The comparison and the ranking of an experiment's jobs, from what they have published. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune_api.experiment.comparison import Comparison
from finetune_api.experiment.ranking import Ranking, rank
from finetune_api.experiment.spec import RankBy
from finetune_api.experiment.status import ExperimentRun
from finetune_api.experiment.summary import results_by_variant, variant_costs
from finetune_api.messages import RowScores

from finetune_trainer.evaluation.comparison import VariantResult, compare


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
    results = [VariantResult(variant, [row.after or 0.0 for row in each], [scores.get(row.job) for row in each])
               for variant, each in results_by_variant(rows).items()]
    comparison = compare(sorted(results, key=lambda result: costs[result.variant]), rank_by.metric)
    return comparison, rank(comparison, costs, rank_by, currency)
