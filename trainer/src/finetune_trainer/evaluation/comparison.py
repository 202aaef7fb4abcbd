"""Compares the results of several runs row by row. Pure: scores of rows in, intervals and tests out.

Rows are the unit that varies: another held-out set would give other scores. So rows are resampled for the intervals
(bootstrap; Efron and Tibshirani, 1993), for two variants the same rows of both (paired). Whether a difference is clear
is decided by a test that is valid for few rows too: McNemar's exact test where rows are right or wrong, else Fisher's
sign-flip test (The Design of Experiments, 1935, §21). Of several runs of a variant, with other seeds, each row has the
mean of its scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from finetune_api.experiment.comparison import SIGNIFICANCE, Comparison, VariantComparison, fewest_rows
from finetune_api.messages import RowScores
from finetune_api.spec.evaluation import LOWER_IS_BETTER, Metric

from finetune_trainer.evaluation.scores import perplexity

_RESAMPLES = 10_000
_FEWEST_RESAMPLES = 1_000
_MOST_DRAWS = 20_000_000
_CHUNK = 1_000_000
_ALL_FLIPS = 14
"""Up to so many rows that differ, every flip of the signs is counted."""
_FLIPS = 20_000
_SAME_SUM = 1e-9
"""Sums of the same differences in another order differ by rounding."""
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


@dataclass(frozen=True)
class _Rows:
    """The rows of a variant: the weight of each, and its weighted score, by the row's digest."""

    weights: Mapping[str, float]
    sums: Mapping[str, float]

    @property
    def are_right_or_wrong(self) -> bool:
        return all(total in (0.0, self.weights[row]) for row, total in self.sums.items())


def compare(results: Sequence[VariantResult], metric: Metric, seed: int = 0) -> Comparison:
    """Compare variants, each with the one that has the best score.

    Args:
        results: the variants with a result, in the order of preference: of equal scores the first is the best.
        metric: what to compare.
        seed: of the resampling; the same seed gives the same intervals.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    ordered = sorted(results, key=lambda result: -sign * _mean(result.scores))
    rows = {result.variant: _pooled(result, metric) for result in ordered}
    statistic = perplexity if metric is Metric.PERPLEXITY else _same
    best = rows[ordered[0].variant] if ordered else None
    compared = []
    for place, result in enumerate(ordered):
        own = rows[result.variant]
        one = VariantComparison(
            variant=result.variant, score=round(_mean(result.scores), _DIGITS), rows=len(own.weights) if own else 0,
            spread=_spread(result.scores))
        if own:
            low, high = _interval(own, statistic, seed)
            one = one.model_copy(update={"low": low, "high": high})
        if place and own and best:
            one = one.model_copy(update=_paired(own, best, statistic, seed, len(ordered) - 1))
        compared.append(one)
    return Comparison(metric=metric, variants=tuple(compared))


def _same(value: float) -> float:
    return value


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _spread(scores: Sequence[float]) -> float | None:
    """The standard deviation over the runs of a variant; None for a single run."""
    return round(float(numpy.std(scores, ddof=1)), _DIGITS) if len(scores) > 1 else None


def _pooled(result: VariantResult, metric: Metric) -> _Rows | None:
    """The rows of all runs of a variant; None where a run has no scores of the metric by row."""
    column = str(Metric.LOSS) if metric is Metric.PERPLEXITY else str(metric)
    weights: dict[str, float] = {}
    sums: dict[str, float] = {}
    for scores in result.rows:
        if scores is None or not scores.rows or column not in scores.after:
            return None
        each = scores.answer_tokens if column == str(Metric.LOSS) else (1,) * len(scores.rows)
        if not len(scores.rows) == len(each) == len(scores.after[column]):
            return None
        for row, weight, score in zip(scores.rows, each, scores.after[column], strict=True):
            weights[row] = weights.get(row, 0.0) + weight
            sums[row] = sums.get(row, 0.0) + weight * score
    return _Rows(weights, sums)


def _interval(rows: _Rows, statistic: Callable[[float], float], seed: int) -> tuple[float, float]:
    weights = numpy.array(list(rows.weights.values()))
    sums = numpy.array([rows.sums[row] for row in rows.weights])
    means = _resampled([(weights, sums)], seed)[0]
    return _ends(numpy.array([statistic(mean) for mean in means]), SIGNIFICANCE)


def _paired(rows: _Rows, best: _Rows, statistic: Callable[[float], float], seed: int, comparisons: int
            ) -> dict[str, float]:
    """The difference of two variants on the rows that both have; nothing where they have none in common.

    With several comparisons, each has a wider interval, so that all together keep the level (Bonferroni).
    """
    common = [row for row in best.weights if row in rows.weights]
    if not common:
        return {}
    both = [(numpy.array([one.weights[row] for row in common]), numpy.array([one.sums[row] for row in common]))
            for one in (rows, best)]
    own, other = _resampled(both, seed)
    differences = numpy.array([statistic(a) - statistic(b) for a, b in zip(own, other, strict=True)])
    low, high = _ends(differences, SIGNIFICANCE / comparisons)
    observed = [statistic(float(sums.sum() / weights.sum())) for weights, sums in both]
    if rows.are_right_or_wrong and best.are_right_or_wrong:
        right = [[one.sums[row] > 0 for row in common] for one in (rows, best)]
        gained = sum(a and not b for a, b in zip(*right, strict=True))
        lost = sum(b and not a for a, b in zip(*right, strict=True))
        p_value = mcnemar(gained, lost)
    else:
        # The perplexity is the loss on another scale, and has the same test.
        (own_weights, own_sums), (other_weights, other_sums) = both
        p_value = sign_flip(own_sums / own_weights.sum() - other_sums / other_weights.sum(), seed)
    return {"difference": round(observed[0] - observed[1], _DIGITS), "difference_low": low, "difference_high": high,
            "p_value": min(1.0, comparisons * p_value), "compared_rows": len(common),
            "needed_rows": fewest_rows(comparisons)}


def _resampled(samples: Sequence[tuple[numpy.ndarray, numpy.ndarray]], seed: int) -> list[numpy.ndarray]:
    """The weighted means of resampled rows, the same rows of each sample.

    Args:
        samples: the weights and the weighted scores of the same rows, several times.
        seed: of the draws.

    Returns:
        For each sample its means, of shape (resamples,).
    """
    count = len(samples[0][0])
    resamples = max(_FEWEST_RESAMPLES, min(_RESAMPLES, _MOST_DRAWS // count))
    chance = numpy.random.default_rng(seed)
    means: list[list[numpy.ndarray]] = [[] for _ in samples]
    left = resamples
    while left:
        part = min(left, max(1, _CHUNK // count))
        drawn = chance.integers(0, count, (part, count))
        for (weights, sums), found in zip(samples, means, strict=True):
            found.append(sums[drawn].sum(1) / weights[drawn].sum(1))
        left -= part
    return [numpy.concatenate(found) for found in means]


def _ends(values: numpy.ndarray, miss: float) -> tuple[float, float]:
    """The interval that leaves out `miss` of the values, half of that at each end."""
    low, high = numpy.quantile(values, [miss / 2, 1 - miss / 2])
    return round(float(low), _DIGITS), round(float(high), _DIGITS)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: how likely so uneven a split of the rows is that differ.

    Args:
        gained: rows that are right in the one run alone.
        lost: rows that are right in the other run alone.
    """
    total = gained + lost
    if not total:
        return 1.0
    fewer = sum(math.comb(total, count) for count in range(min(gained, lost) + 1))
    return min(1.0, 2 * fewer / 2**total)


def sign_flip(differences: numpy.ndarray, seed: int = 0) -> float:
    """The two-sided p-value of Fisher's sign-flip test: if two variants are equally good, each row's difference could
    as well have the other sign. How often is the sum then at least as far from 0?

    Up to 14 rows that differ, all flips are counted, so the test is exact; beyond, 20,000 random ones and the observed.

    Args:
        differences: what each row adds to the difference of the scores, of shape (rows,).
        seed: of the random flips.
    """
    values = differences[differences != 0]
    if not len(values):
        return 1.0
    least = abs(values.sum()) - _SAME_SUM * numpy.abs(values).sum()
    if len(values) <= _ALL_FLIPS:
        signs = 1 - 2 * (numpy.arange(2**len(values))[:, None] >> numpy.arange(len(values)) & 1)
        return float((numpy.abs(signs @ values) >= least).mean())
    chance, found, left = numpy.random.default_rng(seed), 1, _FLIPS
    while left:
        part = min(left, max(1, _CHUNK // len(values)))
        signs = 1 - 2 * chance.integers(0, 2, (part, len(values)), dtype=numpy.int8)
        found += int((numpy.abs(signs @ values) >= least).sum())
        left -= part
    return found / (_FLIPS + 1)
