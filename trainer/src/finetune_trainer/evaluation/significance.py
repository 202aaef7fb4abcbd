"""Tests of the difference of two results on the same rows. They are valid for few rows too. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy

CHUNK = 1_000_000
"""Most rows in one array of draws."""

MOST_PLACES = 20_000_000
"""Rows of all draws together, beyond which there are fewer draws."""

EXCHANGES = 20_000
"""Random exchanges of a test."""

_ALL_EXCHANGES = 14
"""Up to so many rows that differ, every way to exchange them is counted."""
_SAME_SUM = 1e-9
"""Sums of the same differences in another order differ by rounding."""


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
    """The two-sided p-value of Fisher's sign-flip test (The Design of Experiments, 1935, §21): if two variants are
    equally good, each row's difference could as well have the other sign. How often is the sum then at least as far
    from 0?

    Args:
        differences: what each row adds to the difference of the scores, of shape (rows,).
        seed: of the random flips.
    """
    values = differences[differences != 0]
    return randomisation(lambda exchanged: values.sum() - 2 * (exchanged @ values), len(values),
                         rounding=_SAME_SUM * float(numpy.abs(values).sum()), seed=seed)


def randomisation(difference: Callable[[numpy.ndarray], numpy.ndarray], count: int, draws: int = EXCHANGES,
                  rounding: float = _SAME_SUM, seed: int = 0) -> float:
    """The two-sided p-value of an approximate randomisation test (Noreen, Computer-Intensive Methods for Testing
    Hypotheses, 1989; Yeh, More accurate tests for the statistical significance of result differences, COLING 2000): if
    two variants are equally good, the answers to a row could as well have been given by the other one. How often is the
    difference of the scores then at least as far from 0? The scores can be any function of all rows, such as F1.

    Up to 14 rows that differ, all exchanges are counted, so the test is exact; beyond, random ones and the observed.

    Args:
        difference: the difference of the scores, of shape (draws,), where rows are exchanged: 1 in an array of shape
            (draws, rows) for a row that is exchanged, else 0.
        count: the number of rows on which the variants differ.
        draws: the number of random exchanges.
        rounding: differences that are so near are the same.
        seed: of the random exchanges.
    """
    if not count:
        return 1.0
    least = abs(float(difference(numpy.zeros((1, count), dtype=numpy.int8))[0])) - rounding
    exact = count <= _ALL_EXCHANGES
    found = sum(int((numpy.abs(difference(exchanged)) >= least).sum())
                for exchanged in (_all_exchanges(count) if exact else _random_exchanges(count, draws, seed)))
    return found / 2**count if exact else (found + 1) / (draws + 1)


def _all_exchanges(count: int) -> Iterator[numpy.ndarray]:
    yield numpy.arange(2**count)[:, None] >> numpy.arange(count) & 1


def _random_exchanges(count: int, draws: int, seed: int) -> Iterator[numpy.ndarray]:
    chance = numpy.random.default_rng(seed)
    while draws:
        part = min(draws, max(1, CHUNK // count))
        yield chance.integers(0, 2, (part, count), dtype=numpy.int8)
        draws -= part
