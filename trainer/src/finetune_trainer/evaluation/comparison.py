"""Compares the results of several runs row by row. Pure: scores of rows in, intervals and tests out.

Rows are the unit that varies: another held-out set would give other scores. So rows are resampled for the intervals
(bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993), for two variants the same rows of both
(paired). F1 is computed anew of each resampling. Whether a difference is clear is decided by a test that is valid for
few rows too: McNemar's exact test where rows are right or wrong, an approximate randomisation test for F1, else the
sign-flip test (significance.py). Of several runs of a variant, with other seeds, a mean has for each row the mean of
its scores, and F1 is the mean over the runs. The answers of all runs to a row are drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
from finetune_api.experiment.comparison import SIGNIFICANCE, Comparison, VariantComparison, fewest_rows
from finetune_api.messages import RowScores
from finetune_api.spec.evaluation import LOWER_IS_BETTER, Metric

from finetune_trainer.evaluation.f1_rows import F1Rows
from finetune_trainer.evaluation.row_sums import MeanRows, RowSums, Side
from finetune_trainer.evaluation.significance import CHUNK, MOST_PLACES

_RESAMPLES = 10_000
_FEWEST_RESAMPLES = 1_000
_DIGITS = 6


@dataclass(frozen=True)
class VariantResult:
    """What the runs of one variant published.

    Attributes:
        variant: its name.
        scores: the metric after training, of each run.
        rows: the scores of single rows, of each run; None for a run that published none.
    """

    variant: str
    scores: Sequence[float]
    rows: Sequence[RowScores | None]


def compare(results: Sequence[VariantResult], metric: Metric, seed: int = 0) -> Comparison:
    """Compare variants, each with the one that has the best score.

    Args:
        results: the variants with a result, in the order of preference: of equal scores the first is the best.
        metric: what to compare.
        seed: of the resampling; the same seed gives the same intervals.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    ordered = sorted(results, key=lambda result: -sign * _mean(result.scores))
    rows = {result.variant: _row_sums(result.rows, metric) for result in ordered}
    best = rows[ordered[0].variant] if ordered else None
    compared = []
    for place, result in enumerate(ordered):
        own = rows[result.variant]
        one = VariantComparison(
            variant=result.variant, score=round(_mean(result.scores), _DIGITS), rows=len(own.names) if own else 0,
            spread=_spread(result.scores))
        if own:
            low, high = _interval(own, seed)
            one = one.model_copy(update={"low": low, "high": high})
        others = len(ordered) - 1
        if place and own and best and (found := _difference(own, best, seed, others)):
            one = one.model_copy(update={
                "difference": found.value, "difference_low": found.low, "difference_high": found.high,
                "p_value": found.p_value, "compared_rows": found.rows, "needed_rows": fewest_rows(others)})
        compared.append(one)
    return Comparison(metric=metric, variants=tuple(compared))


def gains(results: Sequence[VariantResult], metric: Metric, seed: int = 0) -> dict[str, Difference]:
    """What training has changed, by variant: the score after it minus the score before, on the same rows. A variant
    without the scores of rows on both sides has none.

    Args:
        results: the variants with a result.
        metric: what to compare.
        seed: of the resampling.
    """
    sides = {result.variant: (_row_sums(result.rows, metric), _row_sums(result.rows, metric, "before"))
             for result in results}
    known = {variant: (after, before) for variant, (after, before) in sides.items() if after and before}
    found = {variant: _difference(after, before, seed, len(known)) for variant, (after, before) in known.items()}
    return {variant: difference for variant, difference in found.items() if difference}


def _row_sums(runs: Sequence[RowScores | None], metric: Metric, side: Side = "after") -> RowSums | None:
    """What a metric of a variant is made of; None where a run has not published it."""
    known = [scores for scores in runs if scores is not None and scores.rows]
    if not known or len(known) < len(runs):
        return None
    kind = F1Rows if metric in (Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO) else MeanRows
    return kind.of(known, metric, side)


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _spread(scores: Sequence[float]) -> float | None:
    """The standard deviation over the runs of a variant; None for a single run."""
    return round(float(numpy.std(scores, ddof=1)), _DIGITS) if len(scores) > 1 else None


def _interval(rows: RowSums, seed: int) -> tuple[float, float]:
    return _ends(numpy.concatenate([rows.scores(drawn) for drawn in _resampled(len(rows.names), seed)]), SIGNIFICANCE)


@dataclass(frozen=True)
class Difference:
    """The difference of two scores on the same rows.

    With several comparisons, each has a wider interval and a larger p-value, so that all together keep the level
    (Bonferroni).

    Attributes:
        value: the difference.
        low: lower end of its interval.
        high: upper end of its interval.
        p_value: how likely so large a difference is by chance.
        rows: the number of rows.
    """

    value: float
    low: float
    high: float
    p_value: float
    rows: int

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance."""
        return self.p_value < SIGNIFICANCE


def _difference(one: RowSums, other: RowSums, seed: int, comparisons: int) -> Difference | None:
    """The difference of two scores on the rows that both have; None where they have none in common."""
    pair = one.paired(other)
    if pair is None:
        return None
    own, others = pair
    count = len(own.names)
    low, high = _ends(numpy.concatenate([own.scores(drawn) - others.scores(drawn)
                                         for drawn in _resampled(count, seed)]), SIGNIFICANCE / comparisons)
    whole = numpy.arange(count)[None]
    value = float((own.scores(whole) - others.scores(whole))[0])
    return Difference(round(value, _DIGITS), low, high, min(1.0, comparisons * own.p_value(others, seed)), count)


def _resampled(count: int, seed: int) -> Iterator[numpy.ndarray]:
    """The places of randomly drawn rows, of shape (draws, rows), in parts of at most `CHUNK` places."""
    chance = numpy.random.default_rng(seed)
    left = max(_FEWEST_RESAMPLES, min(_RESAMPLES, MOST_PLACES // count))
    while left:
        part = min(left, max(1, CHUNK // count))
        yield chance.integers(0, count, (part, count))
        left -= part


def _ends(values: numpy.ndarray, miss: float) -> tuple[float, float]:
    """The interval that leaves out `miss` of the values, half of that at each end."""
    low, high = numpy.quantile(values, [miss / 2, 1 - miss / 2])
    return round(float(low), _DIGITS), round(float(high), _DIGITS)
