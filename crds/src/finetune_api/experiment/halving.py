"""Successive halving: which variants go on after a rung. Pure.

Each rung trains every variant that is left up to a share of its steps, and the better part goes on from there (Jamieson
and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from finetune_api.experiment.expansion import Run
from finetune_api.experiment.observed import ObservedExperiment
from finetune_api.experiment.spec import EarlyStop
from finetune_api.spec.evaluation import LOWER_IS_BETTER, Metric


def stages(runs: Sequence[Run]) -> list[list[Run]]:
    """The jobs by their rung, the first rung first; those that are trained to their end are last."""
    by_rung: dict[float, list[Run]] = {}
    for run in runs:
        by_rung.setdefault(math.inf if run.rung is None else run.rung, []).append(run)
    return [by_rung[rung] for rung in sorted(by_rung)]


def survivors(scores: Mapping[str, float | None], keep: float, metric: Metric) -> frozenset[str]:
    """The variants that go on after a rung: the better ones, the first where two are the same.

    Args:
        scores: the score of each variant that was in the rung; None for one without a result, which never goes on.
        keep: the share of all of them that goes on, rounded up.
        metric: what the score is.
    """
    better = -1.0 if metric in LOWER_IS_BETTER else 1.0
    scored = [(name, score) for name, score in scores.items() if score is not None and not math.isnan(score)]
    ranked = sorted(scored, key=lambda one: -better * one[1])
    return frozenset(name for name, _ in ranked[:math.ceil(len(scores) * keep)])


def saved_by_halving(runs: Sequence[Run], halved: Collection[str], observed: ObservedExperiment,
                     early_stop: EarlyStop | None) -> Decimal:
    """What the jobs that halving gave up would have cost, at the price per step of their variant's longest rung.

    Args:
        runs: all jobs.
        halved: the names of the jobs that were given up.
        observed: what is known of the jobs.
        early_stop: the rungs; None without halving.
    """
    if early_stop is None:
        return Decimal(0)
    saved = Decimal(0)
    for run in runs:
        if run.name not in halved:
            continue
        rungs = [(other.share, observed.jobs[other.name].spent / other.own_share) for other in runs
                 if other.variant == run.variant and other.rung is not None and other.name in observed.jobs]
        if rungs:
            _, whole = max(rungs)
            saved += whole * run.own_share
    return saved
