"""F1 of any choice of a variant's rows: a ratio of sums over rows, and so not a mean of scores of rows. Pure.

`scores.f1_macro` and `scores.f1_micro` define the scores; here they are computed of many draws at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy
from finetune_api.messages import NO_CLASS, OTHER_CLASS, FieldClasses, RowScores
from finetune_api.spec.evaluation import Metric

from finetune_trainer.evaluation.classes import EMPTY_CLASSES
from finetune_trainer.evaluation.row_sums import RowSums, Side, common_rows, places_of
from finetune_trainer.evaluation.significance import EXCHANGES, MOST_PLACES, randomisation

Statistic = Callable[[numpy.ndarray], numpy.ndarray]
_FEWEST_EXCHANGES = 2_000
"""So many random exchanges can still show a difference where 100 variants are compared."""
_ALWAYS = -1
"""The place of a row that every draw has once, beside those that it chooses."""


@dataclass(frozen=True)
class _Answers:
    """The answers of one run, or of several together.

    Attributes:
        rows: the row of each answer, as its place in `F1Rows.names`, of shape (answers,).
        fields: by field, the expected and the given class of each answer, of shape (2, answers).
    """

    rows: numpy.ndarray
    fields: Mapping[str, numpy.ndarray]

    def beside(self, other: _Answers) -> _Answers:
        """These answers and others, in the fields that both have."""
        return _Answers(numpy.concatenate([self.rows, other.rows]), {
            name: numpy.concatenate([classes, other.fields[name]], axis=1)
            for name, classes in self.fields.items() if name in other.fields})

    def only(self, which: numpy.ndarray) -> _Answers:
        """Some of the answers: their places, or whether each is one of them."""
        return _Answers(self.rows[which], {name: classes[:, which] for name, classes in self.fields.items()})

    def sorted(self) -> _Answers:
        """The answers in the order of rows; several answers to a row in the order of their classes."""
        columns = [column for name in sorted(self.fields) for column in self.fields[name]]
        return self.only(numpy.lexsort([*columns, self.rows]))


@dataclass(frozen=True)
class F1Rows(RowSums):
    """Rows of an F1. The score is the mean over runs of the mean over fields, as `headline` is.

    Attributes:
        names: the digest of each row.
        runs: the answers of each run.
        metric: which F1.
    """

    names: tuple[str, ...]
    runs: tuple[_Answers, ...]
    metric: Metric

    def scores(self, chosen: numpy.ndarray) -> numpy.ndarray:
        """The metric of each draw, of shape (draws,); 0 where no row of a draw expects a value."""
        return numpy.nan_to_num(_mean([_mean([field(chosen) for field in fields]) for fields in self._fields]))

    @cached_property
    def _fields(self) -> list[list[Statistic]]:
        """For each run the scores of its fields."""
        return [[_statistic(run.rows, classes, len(self.names), self.metric) for classes in run.fields.values()]
                for run in self.runs]

    def paired(self, other: F1Rows) -> tuple[F1Rows, F1Rows] | None:
        """This one and another one on the rows and the fields that both have; None without any.

        Each run stands beside the one with the same rows. Where runs differ in their rows, the answers of all runs of a
        variant are put together.
        """
        common = common_rows(self.names, other.names)
        if not common:
            return None
        own, others = self._only(common), other._only(common)
        if not _have_same_rows(own, others):
            own, others = own._together(), others._together()
        fields = set.intersection(*(set(run.fields) for run in (*own.runs, *others.runs)))
        return (own._of(fields), others._of(fields)) if fields else None

    def _only(self, names: Sequence[str]) -> F1Rows:
        places = places_of(self.names, names)
        runs = (replace(run, rows=places[run.rows]) for run in self.runs)
        known = (run.only(run.rows >= 0) for run in runs)
        return replace(self, names=tuple(names), runs=tuple(run for run in known if len(run.rows)))

    def _of(self, fields: set[str]) -> F1Rows:
        runs = (replace(run, fields={name: run.fields[name] for name in fields}) for run in self.runs)
        return replace(self, runs=tuple(run.sorted() for run in runs))

    def _together(self) -> F1Rows:
        return replace(self, runs=(reduce(_Answers.beside, self.runs),))

    def p_value(self, other: F1Rows, seed: int) -> float:
        """The approximate randomisation test: all answers of a variant to a row are exchanged together."""
        differ = _differing_rows(self, other)
        count = len(differ)
        own, others = numpy.full((2, len(self.names)), _ALWAYS)
        own[differ], others[differ] = numpy.arange(count), numpy.arange(count, 2 * count)
        # Each row that differs is two rows here, one for each side; their names do not matter for a score.
        both = F1Rows(("",) * (2 * count), tuple(
            replace(one, rows=own[one.rows]).beside(replace(two, rows=others[two.rows]).only(others[two.rows] >= 0))
            for one, two in zip(self.runs, other.runs, strict=True)), self.metric)

        def difference(exchanged: numpy.ndarray) -> numpy.ndarray:
            places = numpy.arange(count)
            return (both.scores(places + count * exchanged.astype(int))
                    - both.scores(places + count * (1 - exchanged.astype(int))))

        draws = max(_FEWEST_EXCHANGES, min(EXCHANGES, MOST_PLACES // max(1, count)))
        return randomisation(difference, count, draws, seed=seed)

    @classmethod
    def of(cls, runs: Sequence[RowScores], metric: Metric, side: Side) -> F1Rows | None:
        """The rows of all runs of a variant; None where a run has no classes of fields with such an F1."""
        names = tuple(dict.fromkeys(row for run in runs for row in run.rows))
        answers = []
        for run in runs:
            fields = {name: _classes(column, getattr(column, side), len(run.rows))
                      for name, column in run.fields.items() if column.is_count or metric is Metric.FIELD_F1_MACRO}
            known = {name: classes for name, classes in fields.items() if classes is not None}
            if not known or len(known) < len(fields):
                return None
            answers.append(_Answers(places_of(run.rows, names), known))
        return cls(names, tuple(answers), metric)


def _classes(column: FieldClasses, given: Sequence[int], rows: int) -> numpy.ndarray | None:
    """The expected and the given classes, with the same numbers in every file; None where they are no such numbers."""
    if not len(column.expected) == len(given) == rows or max(*column.expected, *given) >= len(column.classes):
        return None
    # The last two are found at the indices -2 and -1, which mean the same.
    numbers = numpy.array([*(_number(digest) for digest in column.classes), OTHER_CLASS, NO_CLASS])
    return numbers[[column.expected, given]]


def _number(digest: str) -> int:
    """A class as a number above 0: that of an empty value is even, and that of any other is odd."""
    return (int(digest, 16) >> 2) * 2 + (digest not in EMPTY_CLASSES)


def _is_empty(classes: numpy.ndarray) -> numpy.ndarray:
    return (classes == NO_CLASS) | ((classes >= 0) & (classes % 2 == 0))


def _have_same_rows(one: F1Rows, other: F1Rows) -> bool:
    return len(one.runs) == len(other.runs) and all(
        numpy.array_equal(numpy.sort(own.rows), numpy.sort(others.rows))
        for own, others in zip(one.runs, other.runs, strict=True))


def _differing_rows(one: F1Rows, other: F1Rows) -> numpy.ndarray:
    """The places of the rows that two variants answer differently. Answers to a row are in the order of classes."""
    if not _have_same_rows(one, other):
        return numpy.arange(len(one.names))
    return numpy.unique(numpy.concatenate([
        own.rows[(own.fields[name] != others.fields[name]).any(0)]
        for own, others in zip(one.runs, other.runs, strict=True) for name in own.fields]))


def _mean(values: Sequence[numpy.ndarray]) -> numpy.ndarray:
    """The mean of the values that are known in each draw; NaN where none is."""
    known = ~numpy.isnan(values)
    number = known.sum(0)
    return numpy.where(number > 0, numpy.where(known, values, 0.0).sum(0) / numpy.maximum(1, number), numpy.nan)


def _statistic(rows: numpy.ndarray, classes: numpy.ndarray, size: int, metric: Metric) -> Statistic:
    """The F1 of one field, from places of shape (draws, rows) to (draws,).

    Answers with the same expected and given class are counted together: there are few such pairs, and never more than
    answers, where a table of rows and classes could be too large.
    """
    pairs, numbers = numpy.unique(classes, axis=1, return_inverse=True)
    pairs = numpy.concatenate([pairs, [[NO_CLASS], [NO_CLASS]]], axis=1)
    count, nothing = pairs.shape[1], pairs.shape[1] - 1
    numbers = numbers.reshape(-1)
    always = numpy.bincount(numbers[rows == _ALWAYS], minlength=count)
    order = numpy.argsort(rows, kind="stable")[int((rows == _ALWAYS).sum()):]
    chosen_rows = rows[order]
    which = numpy.arange(len(order)) - numpy.searchsorted(chosen_rows, chosen_rows)  # Of several answers to a row.
    of_row = numpy.full((size, which.max(initial=0) + 1), nothing)
    of_row[chosen_rows, which] = numbers[order]
    score = _macro(pairs) if metric is Metric.FIELD_F1_MACRO else _micro(pairs)

    def statistic(chosen: numpy.ndarray) -> numpy.ndarray:
        draws = len(chosen)
        cells = (of_row * draws)[chosen] + numpy.arange(draws)[:, None, None]
        counts = numpy.bincount(cells.ravel(), minlength=count * draws).reshape(count, draws)
        return score(counts + always[:, None])

    return statistic


def _macro(pairs: numpy.ndarray) -> Statistic:
    """`f1_macro`, from counts of pairs, of shape (pairs, draws): the mean over the classes that a row of the draw
    expects; NaN where none does."""
    expected, given = pairs
    classes = numpy.unique(expected[expected >= 0])
    expecting, giving = (_SumsByClass.of(column, classes) for column in (expected, given))
    hitting = _SumsByClass.of(numpy.where(expected == given, expected, NO_CLASS), classes)

    def score(counts: numpy.ndarray) -> numpy.ndarray:
        wishes = expecting(counts)
        # The expected values are TP + FN, and the given ones TP + FP: together 2·TP + FP + FN.
        scores = 2 * hitting(counts) / numpy.maximum(1, wishes + giving(counts)) * (wishes > 0)
        number = (wishes > 0).sum(0)
        return numpy.where(number > 0, scores.sum(0) / numpy.maximum(1, number), numpy.nan)

    return score


@dataclass(frozen=True)
class _SumsByClass:
    """Adds up the counts of the pairs of each class, from shape (pairs, draws) to (classes, draws).

    Attributes:
        pairs: the pairs that have a class, in the order of classes.
        starts: where the pairs of each class that has pairs start.
        classes: which classes these are.
        count: the number of all classes.
    """

    pairs: numpy.ndarray
    starts: numpy.ndarray
    classes: numpy.ndarray
    count: int

    @classmethod
    def of(cls, column: numpy.ndarray, classes: numpy.ndarray) -> _SumsByClass:
        order = numpy.argsort(column, kind="stable")
        pairs = order[numpy.isin(column[order], classes)]
        found, starts = numpy.unique(column[pairs], return_index=True)
        return cls(pairs, starts, numpy.searchsorted(classes, found), len(classes))

    def __call__(self, counts: numpy.ndarray) -> numpy.ndarray:
        sums = numpy.zeros((self.count, counts.shape[1]), dtype=counts.dtype)
        if len(self.pairs):
            sums[self.classes] = numpy.add.reduceat(counts[self.pairs], self.starts, axis=0)
        return sums


def _micro(pairs: numpy.ndarray) -> Statistic:
    """`f1_micro`, from counts of pairs, of shape (pairs, draws)."""
    expected, given = pairs
    hit = (expected == given) & ~_is_empty(expected)
    either = ~(_is_empty(expected) & _is_empty(given))  # A pair is one of TP, FP and FN, or both values are empty.

    def score(counts: numpy.ndarray) -> numpy.ndarray:
        hits = counts[hit].sum(0)
        return 2 * hits / numpy.maximum(1, hits + counts[either].sum(0))

    return score
