"""Comparing runs row by row, against numbers worked out by hand."""

from __future__ import annotations

import hashlib
import math
import random

import numpy
import pytest
from finetune_api.messages import RowScores
from finetune_api.spec.evaluation import Metric
from finetune_trainer.evaluation.comparison import VariantResult, compare
from finetune_trainer.evaluation.significance import mcnemar, sign_flip


def rows_of(scores, metric="exactMatch", tokens=None, first=0):
    names = [hashlib.sha256(str(first + number).encode()).hexdigest()[:16] for number in range(len(scores))]
    return RowScores(rows=tuple(names), answer_tokens=tuple(tokens or [1] * len(scores)),
                     after={metric: tuple(map(float, scores))})


def result(name, *runs, metric="exactMatch", tokens=None):
    return VariantResult(name, [sum(run) / len(run) for run in runs], [rows_of(run, metric, tokens) for run in runs])


@pytest.mark.parametrize(("gained", "lost", "p_value"), [
    (0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (1, 9, 22 / 1024)])
def test_mcnemars_exact_test(gained, lost, p_value):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(p_value)


def test_the_sign_flip_test():
    assert sign_flip(numpy.array([0.5, 0.5, 0.5, 0.5])) == 2 / 16
    assert sign_flip(numpy.array([3.0, 2.0, -1.0, 0.0])) == 4 / 8, "4, 2, 0, 6, and the same below 0"
    assert sign_flip(numpy.zeros(3)) == 1.0
    assert sign_flip(numpy.array([1.0] * 9 + [-1.0])) == mcnemar(9, 1), "the same test where rows are right or wrong"
    many = numpy.array([1.0] * 20 + [-1.0] * 8)
    assert sign_flip(many) == pytest.approx(mcnemar(20, 8), abs=0.005), "random flips"


def test_four_rows_are_too_few_however_large_the_difference():
    high, low = [result(name, [level] * 4, metric="fieldAccuracy") for name, level in (("a", 0.9), ("b", 0.1))]
    worst = compare([high, low], Metric.FIELD_ACCURACY).variants[1]
    assert (worst.difference, worst.difference_high < 0) == (-0.8, True), "the bootstrap is sure"
    assert (worst.is_clear, worst.p_value, worst.compared_rows, worst.needed_rows) == (False, 0.125, 4, 6)
    more = [result(name, [level] * 6, metric="fieldAccuracy") for name, level in (("a", 0.9), ("b", 0.1))]
    assert compare(more, Metric.FIELD_ACCURACY).variants[1].is_clear


def test_a_large_difference_on_the_same_rows_is_clear_and_a_small_one_is_not():
    good = [1] * 80 + [0] * 20
    found = compare([result("bad", [0] * 40 + [1] * 40 + [0] * 20), result("good", good),
                     result("near", [1] * 78 + [0] * 22)], Metric.EXACT_MATCH)
    assert [(one.variant, one.score, one.rows) for one in found.variants] == [
        ("good", 0.8, 100), ("near", 0.78, 100), ("bad", 0.4, 100)]
    best, near, bad = found.variants
    assert (best.difference, best.is_clear) == (None, None)
    assert best.low == pytest.approx(0.8 - 1.96 * math.sqrt(0.8 * 0.2 / 100), abs=0.02)
    assert best.high == pytest.approx(0.8 + 1.96 * math.sqrt(0.8 * 0.2 / 100), abs=0.02)
    assert (bad.difference, bad.is_clear, near.is_clear) == (-0.4, True, False)
    assert near.p_value == 1.0, "two comparisons of a p of 0.5"
    assert near.difference_low < near.difference_high <= 0


def test_pairing_finds_a_difference_that_the_intervals_of_the_scores_hide():
    chance = random.Random(1)
    hard = [chance.random() for _ in range(200)]
    found = compare([result("a", hard, metric="fieldAccuracy"),
                     result("b", [max(0.0, one - 0.03) for one in hard], metric="fieldAccuracy")],
                    Metric.FIELD_ACCURACY)
    best, other = found.variants
    assert best.low < other.high, "the intervals overlap"
    assert other.is_clear
    assert -0.03 <= other.difference_low <= other.difference_high < -0.02


def test_the_loss_is_weighted_by_tokens_and_lower_is_better():
    found = compare([VariantResult("a", [2.0], [rows_of([1, 4], "loss", [2, 1])]),
                     VariantResult("b", [1.0], [rows_of([0, 3], "loss", [2, 1])])], Metric.LOSS)
    assert [one.variant for one in found.variants] == ["b", "a"]
    assert found.variants[1].difference == 1.0
    perplexity = compare([VariantResult("a", [math.exp(2)], [rows_of([1, 4], "loss", [2, 1])]),
                          VariantResult("b", [math.exp(1)], [rows_of([0, 3], "loss", [2, 1])])], Metric.PERPLEXITY)
    assert perplexity.variants[1].difference == pytest.approx(math.exp(2) - math.exp(1), abs=1e-5)


def test_repeats_are_averaged_by_row_and_their_spread_is_reported():
    found = compare([result("a", [1, 1, 0, 0], [1, 0, 0, 0]), result("b", [0, 0, 0, 0], [0, 0, 0, 0])],
                    Metric.EXACT_MATCH)
    best, other = found.variants
    assert (best.score, best.rows) == (0.375, 4)
    assert best.spread == pytest.approx(0.176777)
    assert other.difference == -0.375
    assert other.p_value == 0.5, "half a right answer is neither right nor wrong: two rows differ, both the same way"


def test_rows_that_only_one_variant_has_do_not_count_for_the_difference():
    one = VariantResult("a", [0.5], [rows_of([1, 0, 1, 0])])
    two = VariantResult("b", [0.25], [rows_of([1, 0, 0, 0], first=2)])
    assert compare([one, two], Metric.EXACT_MATCH).variants[1].difference == 0.5 - 0.5
    elsewhere = VariantResult("b", [0.25], [rows_of([1, 0, 0, 0], first=100)])
    assert compare([one, elsewhere], Metric.EXACT_MATCH).variants[1].is_clear is None


def test_without_scores_of_rows_there_is_a_score_and_nothing_else():
    found = compare([VariantResult("a", [0.5], [None]), result("b", [1, 0, 0, 0])], Metric.EXACT_MATCH)
    best, other = found.variants
    assert (best.variant, best.score, best.rows, best.low) == ("a", 0.5, 0, None)
    assert (other.low is not None, other.is_clear) == (True, None)
    assert compare([result("a", [1, 0])], Metric.FIELD_F1_MACRO).variants[0].low is None
    assert compare([], Metric.LOSS).variants == ()


def test_of_equal_scores_the_first_is_the_best_and_the_same_seed_gives_the_same_intervals():
    results = [result("cheap", [1, 0, 1, 0]), result("dear", [0, 1, 0, 1])]
    found = compare(results, Metric.EXACT_MATCH, seed=3)
    assert [one.variant for one in found.variants] == ["cheap", "dear"]
    assert found == compare(results, Metric.EXACT_MATCH, seed=3)


def test_chance_alone_rarely_looks_like_a_difference():
    chance = random.Random(5)
    clear = 0
    for number in range(60):
        runs = [result(name, [chance.random() < 0.6 for _ in range(60)]) for name in "abcd"]
        clear += any(one.is_clear for one in compare(runs, Metric.EXACT_MATCH, seed=number).variants)
    assert clear <= 8, "5 % of 60 are 3"
