"""What a comparison of results row by row found: made where the rows' scores are, read where they are ranked."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from finetune_api.spec.evaluation import LOWER_IS_BETTER, Metric
from finetune_api.values.api_model import Message

_DIGITS = 6


class VariantComparison(Message):
    """The score of one variant, and its difference to the best one on the rows that both have."""

    variant: str
    """Name of the variant."""

    rows: int = 0
    """Number of different held-out rows that the score is a mean of. 0 where there are no scores of single rows."""

    score: float
    """The metric after training; with repeats their mean."""

    low: float | None = None
    """Lower end of the 95 % interval of the score: how it would vary with other held-out rows (bootstrap)."""

    high: float | None = None
    """Upper end of that interval."""

    spread: float | None = None
    """Standard deviation of the score over the repeats; None without repeats."""

    difference: float | None = None
    """Score minus that of the best variant, on the rows that both have; None for the best one, or without such rows."""

    difference_low: float | None = None
    """Lower end of the interval of the difference (paired bootstrap). Over all variants, it misses in 5 % of cases."""

    difference_high: float | None = None
    """Upper end of that interval."""

    p_value: float | None = None
    """How likely such a difference, or a larger one, is by chance, times the number of comparisons (Bonferroni).
    McNemar's exact test where rows are right or wrong, an approximate randomisation test for F1, else the sign-flip
    test."""

    compared_rows: int = 0
    """Number of rows that this variant and the best one have in common."""

    needed_rows: int | None = None
    """Number of such rows below which no difference can be clear."""

    @property
    def has_too_few_rows(self) -> bool:
        """Whether no difference on the rows in common can be clear."""
        return self.needed_rows is not None and self.compared_rows < self.needed_rows

    @property
    def is_clear(self) -> bool | None:
        """Whether the difference to the best one is more than chance; None where that was not measured."""
        return self.p_value < SIGNIFICANCE if self.p_value is not None else None


SIGNIFICANCE = 0.05
"""How often the comparisons of one experiment call a difference real that is none: at most this often."""


def fewest_rows(comparisons: int) -> int:
    """The smallest number of rows on which a difference can be clear: one variant is better on each of them.

    By chance that happens, either way round, in 2 of 2^rows cases.

    Args:
        comparisons: the number of variants that are compared with the best one.
    """
    rows = 1
    while comparisons * 2 / 2**rows >= SIGNIFICANCE:
        rows += 1
    return rows


class Comparison(Message):
    """The comparison of all variants with a result, the best score first."""

    metric: str
    """The metric."""

    variants: Annotated[tuple[VariantComparison, ...], Field(max_length=100)]
    """The variants."""


def compare_scores(scores: Mapping[str, Sequence[float]], metric: Metric) -> Comparison:
    """Compare variants by their scores alone, where the scores of single rows are out of reach. Nothing is clear then.

    Args:
        scores: the metric after training of each run, by variant; of equal scores the first variant is the best.
        metric: what to compare.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    means = {variant: math.fsum(each) / len(each) for variant, each in scores.items()}
    return Comparison(metric=metric, variants=tuple(
        VariantComparison(variant=variant, score=round(means[variant], _DIGITS),
                          spread=round(statistics.stdev(scores[variant]), _DIGITS)
                          if len(scores[variant]) > 1 else None)
        for variant in sorted(means, key=lambda variant: -sign * means[variant])))
