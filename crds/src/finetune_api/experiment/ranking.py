"""The ranking of an experiment, who won, and why, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune_api.experiment.comparison import Comparison, VariantComparison
from finetune_api.experiment.spec import RankBy
from finetune_api.experiment.status import RankedVariant
from finetune_api.spec.evaluation import LOWER_IS_BETTER

_SHOWN = 5


@dataclass(frozen=True)
class Ranking:
    """How the variants rank.

    Attributes:
        variants: those with a result, the best score first.
        winner: the variant that won; None if none clearly did.
        conclusion: who won and why, or why nobody did.
    """

    variants: tuple[RankedVariant, ...]
    winner: str | None
    conclusion: str


def rank(comparison: Comparison, costs: Mapping[str, Decimal], rank_by: RankBy, currency: str = "USD",
         stopped_early: Sequence[str] = ()) -> Ranking:
    """Rank the variants of a comparison.

    Args:
        comparison: the scores, the best first; of equal scores the cheaper one first.
        costs: what all jobs of each variant cost.
        rank_by: the metric and the tolerance.
        currency: of the costs.
        stopped_early: the variants of which a job has not trained all of its steps: they are compared with whole runs.
    """
    if not comparison.variants:
        return Ranking((), None, "No variant has a result.")
    best = comparison.variants[0]
    ranked = tuple(
        RankedVariant(rank=place, variant=one.variant, score=one.score, low=one.low, high=one.high, spread=one.spread,
                      rows=one.rows, cost=costs[one.variant], verdict=_verdict(one, best))
        for place, one in enumerate(comparison.variants, start=1))
    winner, why = _decide(comparison.variants, costs, rank_by, currency)
    if stopped_early:
        why += f" Not all steps were trained of {_listed(stopped_early)} (StoppedEarly); with all, scores may differ."
    return Ranking(ranked, winner, why)


def _verdict(one: VariantComparison, best: VariantComparison) -> str:
    """How a variant compares with the best one."""
    if one is best:
        return "the best score"
    if one.is_clear is None:
        return f"no scores of the same rows as {best.variant}: whether the difference is chance is not known"
    if one.is_clear:
        return f"worse than {best.variant}: {_difference(one)}"
    return f"not clearly different from {best.variant}: {_difference(one)}"


def _difference(one: VariantComparison) -> str:
    if one.difference_low is None or one.difference_high is None:
        return _signed(one.difference or 0.0)
    return difference_in_words(one.difference or 0.0, one.difference_low, one.difference_high, one.p_value)


def difference_in_words(value: float, low: float, high: float, p_value: float | None) -> str:
    """A difference with its interval and the test: `-0.13 (interval of the difference -0.2 to -0.06, p 0.003)`.

    Args:
        value: the difference, with its sign, in the unit of the metric.
        low: lower end of its interval.
        high: upper end of its interval.
        p_value: of the test; None where there was none.
    """
    p = f", p {p_value:.2g}" if p_value is not None else ""
    return f"{_signed(value)} (interval of the difference {_signed(low)} to {_signed(high)}{p})"


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def _decide(variants: Sequence[VariantComparison], costs: Mapping[str, Decimal], rank_by: RankBy, currency: str
            ) -> tuple[str | None, str]:
    best, metric = variants[0], rank_by.metric
    if len(variants) == 1:
        return best.variant, f"{best.variant} is the only variant with a result: {metric} {best.score:.4g}."
    if rank_by.tolerance is not None:
        near = [one for one in variants if _worse_by(one, best, rank_by) <= rank_by.tolerance]
        chosen = min(near, key=lambda one: costs[one.variant])  # The first of equal costs has the better score.
        words = (f"{chosen.variant} wins: it is the cheapest ({costs[chosen.variant]:f} {currency}) of the {len(near)} "
                 f"variants within {rank_by.tolerance:g} of the best {metric}")
        return chosen.variant, f"{words} ({best.variant}: {best.score:.4g}; {chosen.variant}: {chosen.score:.4g})."
    unclear = [one for one in variants[1:] if not one.is_clear]
    if not unclear:
        return best.variant, (f"{best.variant} wins: {metric} {best.score:.4g}. The next, {variants[1].variant}, is "
                              f"worse: {_difference(variants[1])}.")
    names = _listed([one.variant for one in unclear])
    if all(one.score == best.score for one in unclear):
        words = f"No clear winner: {best.variant}, {names} have the same {metric} ({best.score:.4g})."
    else:
        known = "" if all(one.is_clear is not None for one in unclear) else ", as far as is known"
        words = (f"No clear winner: {best.variant} has the best {metric} ({best.score:.4g}), but its difference to "
                 f"{names} can be chance{known}.")
    if few := [one for one in unclear if one.has_too_few_rows]:
        words += (f" On {few[0].compared_rows} held-out rows no difference can be clear; that takes at least "
                  f"{few[0].needed_rows}.")
    equal = [best, *unclear]
    cheapest = min(equal, key=lambda one: costs[one.variant])
    if len({costs[one.variant] for one in equal}) > 1:
        words += f" The cheapest of these is {cheapest.variant} ({costs[cheapest.variant]:f} {currency})."
    return None, words


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")


def _worse_by(one: VariantComparison, best: VariantComparison, rank_by: RankBy) -> float:
    difference = one.score - best.score
    return round(difference if rank_by.metric in LOWER_IS_BETTER else -difference, 9)
