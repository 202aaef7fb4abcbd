"""What the scores of a variant are made of, row by row, so that they can be computed of any choice of its rows. Pure.

Rows are chosen by an array of shape (draws, rows), which has places of rows: each once for the score itself, and random
ones for a resampling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy
from finetune_api.messages import RowScores
from finetune_api.spec.evaluation import Metric

from finetune_trainer.evaluation.scores import perplexity
from finetune_trainer.evaluation.significance import mcnemar, sign_flip

Side = Literal["before", "after"]


class RowSums(ABC):
    """What one metric of a variant is made of, row by row.

    Attributes:
        names: the digest of each row.
    """

    names: tuple[str, ...]

    @abstractmethod
    def scores(self, chosen: numpy.ndarray) -> numpy.ndarray:
        """The metric of each draw, of shape (draws,).

        Args:
            chosen: the places of the rows of each draw, of shape (draws, rows).
        """

    @abstractmethod
    def paired(self, other: Self) -> tuple[Self, Self] | None:
        """This one and another one on the rows that both have, in the same order; None without any."""

    @abstractmethod
    def p_value(self, other: Self, seed: int) -> float:
        """How likely so large a difference to another one, of the same rows, is by chance (two-sided)."""


@dataclass(frozen=True)
class MeanRows(RowSums):
    """Rows of a metric that is a mean. A row of several runs has the sum of their scores.

    Attributes:
        names: the digest of each row.
        weights: the weight of each row, of shape (rows,).
        sums: its weighted score, of shape (rows,).
        scale: from the mean to the metric.
    """

    names: tuple[str, ...]
    weights: numpy.ndarray
    sums: numpy.ndarray
    scale: Callable[[float], float]

    def scores(self, chosen: numpy.ndarray) -> numpy.ndarray:
        """The metric of each draw, of shape (draws,)."""
        return numpy.array([self.scale(mean) for mean in self.sums[chosen].sum(1) / self.weights[chosen].sum(1)])

    def paired(self, other: MeanRows) -> tuple[MeanRows, MeanRows] | None:
        """This one and another one on the rows that both have, in the same order; None without any."""
        common = common_rows(self.names, other.names)
        return (self._only(common), other._only(common)) if common else None

    def _only(self, names: Sequence[str]) -> MeanRows:
        places = places_of(names, self.names)
        return replace(self, names=tuple(names), weights=self.weights[places], sums=self.sums[places])

    def p_value(self, other: MeanRows, seed: int) -> float:
        """McNemar's exact test where rows are right or wrong, else the sign-flip test."""
        if self._are_right_or_wrong and other._are_right_or_wrong:
            own, others = self.sums > 0, other.sums > 0
            return mcnemar(int((own & ~others).sum()), int((others & ~own).sum()))
        # The perplexity is the loss on another scale, and has the same test.
        return sign_flip(self.sums / self.weights.sum() - other.sums / other.weights.sum(), seed)

    @property
    def _are_right_or_wrong(self) -> bool:
        return bool(numpy.all((self.sums == 0) | (self.sums == self.weights)))

    @classmethod
    def of(cls, runs: Sequence[RowScores], metric: Metric, side: Side) -> MeanRows | None:
        """The rows of all runs of a variant; None where a run has no scores of the metric."""
        column = str(Metric.LOSS) if metric is Metric.PERPLEXITY else str(metric)
        weights: dict[str, float] = {}
        sums: dict[str, float] = {}
        for run in runs:
            scores = getattr(run, side).get(column, ())
            each = run.answer_tokens if column == str(Metric.LOSS) else (1,) * len(run.rows)
            if not len(run.rows) == len(each) == len(scores):
                return None
            for row, weight, score in zip(run.rows, each, scores, strict=True):
                weights[row] = weights.get(row, 0.0) + weight
                sums[row] = sums.get(row, 0.0) + weight * score
        return cls(tuple(weights), numpy.array(list(weights.values())), numpy.array(list(sums.values())),
                   perplexity if metric is Metric.PERPLEXITY else float)


def common_rows(own: Sequence[str], others: Sequence[str]) -> list[str]:
    """The rows that both have, in the order of the others."""
    known = set(own)
    return [row for row in others if row in known]


def places_of(names: Sequence[str], among: Sequence[str]) -> numpy.ndarray:
    """The place of each name among others, of shape (names,); -1 where it is not there."""
    places = {name: place for place, name in enumerate(among)}
    return numpy.array([places.get(name, -1) for name in names], dtype=int)
