"""Who wins an experiment, and why, in words."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api.experiment.comparison import Comparison, VariantComparison, fewest_rows
from finetune_api.experiment.ranking import rank
from finetune_api.experiment.spec import RankBy
from finetune_api.spec.evaluation import Metric

BEST = VariantComparison(variant="qdora", rows=100, score=0.83, low=0.75, high=0.9)


def other(name, score, low, high, p_value=None):
    return VariantComparison(variant=name, rows=100, score=score, difference=round(score - 0.83, 3),
                             difference_low=low, difference_high=high, p_value=p_value)


def ranked(*others, tolerance=None, metric=Metric.FIELDS_MATCH, costs=None):
    variants = (BEST, *others)
    prices = {one.variant: Decimal(str((costs or {}).get(one.variant, 1))) for one in variants}
    return rank(Comparison(metric=metric, variants=variants), prices, RankBy(metric=metric, tolerance=tolerance), "EUR")


def test_the_best_wins_where_every_difference_is_more_than_chance():
    found = ranked(other("qlora", 0.7, -0.2, -0.06, 0.003), other("ia3", 0.5, -0.45, -0.2, 0.0001))
    assert (found.winner, [one.variant for one in found.variants]) == ("qdora", ["qdora", "qlora", "ia3"])
    assert found.conclusion == ("qdora wins: fieldsMatch 0.83. The next, qlora, is worse: -0.13 (interval of the "
                                "difference -0.2 to -0.06, p 0.003).")
    assert found.variants[0].verdict == "the best score"
    assert found.variants[1].verdict == "worse than qdora: -0.13 (interval of the difference -0.2 to -0.06, p 0.003)"


def test_a_difference_has_the_sign_of_its_interval():
    near, same = ranked(other("qlora", 0.8, -0.1, 0.04, 0.4), other("ia3", 0.83, 0.0, 0.0, 1.0)).variants[1:]
    assert near.verdict == "not clearly different from qdora: -0.03 (interval of the difference -0.1 to +0.04, p 0.4)"
    assert same.verdict == "not clearly different from qdora: 0 (interval of the difference 0 to 0, p 1)"


@pytest.mark.parametrize("near", [other("qlora", 0.8, -0.1, 0.04, 0.4), other("qlora", 0.8, -0.1, -0.01, 0.06),
                                  VariantComparison(variant="qlora", score=0.8)],
                         ids=["the interval has 0", "the test says chance", "not measured"])
def test_there_is_no_clear_winner_where_a_difference_can_be_chance(near):
    found = ranked(near, other("ia3", 0.5, -0.45, -0.2, 0.001), costs={"qlora": "0.5"})
    assert found.winner is None
    assert found.conclusion.startswith("No clear winner: qdora has the best fieldsMatch (0.83), but its difference to "
                                       "qlora can be chance")
    assert found.conclusion.endswith("The cheapest of these is qlora (0.5 EUR).")
    assert "cheapest" not in ranked(near).conclusion, "all cost the same"


def test_equal_scores_are_called_equal():
    found = ranked(other("ia3", 0.83, 0.0, 0.0, 1.0), other("qlora", 0.5, -0.45, -0.2, 0.001), costs={"ia3": "0.5"})
    assert found.winner is None
    assert found.conclusion == ("No clear winner: qdora, ia3 have the same fieldsMatch (0.83). The cheapest of these "
                                "is ia3 (0.5 EUR).")


@pytest.mark.parametrize(("stopped", "words"), [
    ((), None), (("qlora",), "Not all steps were trained of qlora (StoppedEarly); with all, scores may differ."),
    (tuple("abcdefg"), "Not all steps were trained of a, b, c, d, e and others (StoppedEarly)")])
def test_the_conclusion_names_the_variants_that_have_not_trained_all_steps(stopped, words):
    variants = (BEST, other("qlora", 0.7, -0.2, -0.06, 0.003))
    costs = {one.variant: Decimal(1) for one in variants}
    metric = Metric.FIELDS_MATCH
    found = rank(Comparison(metric=metric, variants=variants), costs, RankBy(metric=metric), "EUR", stopped)
    assert found.winner == "qdora"
    assert (words in found.conclusion) if words else ("StoppedEarly" not in found.conclusion)


def test_the_test_decides_and_not_the_interval():
    assert ranked(other("qlora", 0.8, -0.1, 0.0, 0.04)).winner == "qdora"
    assert ranked(other("qlora", 0.8, -0.1, -0.01, 0.05)).winner is None
    assert other("qlora", 0.8, -0.1, -0.01).is_clear is None


def test_the_conclusion_says_that_there_are_too_few_rows_for_any_difference_to_be_clear():
    few = other("qlora", 0.5, -0.4, -0.2, 0.125).model_copy(update={"compared_rows": 4, "needed_rows": 6})
    assert "On 4 held-out rows no difference can be clear; that takes at least 6." in ranked(few).conclusion
    enough = few.model_copy(update={"compared_rows": 6})
    assert "held-out rows" not in ranked(enough).conclusion


@pytest.mark.parametrize(("comparisons", "rows"), [(1, 6), (2, 7), (9, 9), (99, 12)])
def test_so_few_rows_can_show_a_difference(comparisons, rows):
    assert fewest_rows(comparisons) == rows


def test_within_a_tolerance_the_cheapest_wins():
    others = other("qlora", 0.81, -0.05, -0.01), other("ia3", 0.7, -0.3, -0.1)
    costs = {"qdora": 3, "qlora": 2, "ia3": 1}
    assert ranked(*others, tolerance=0.02, costs=costs).winner == "qlora"
    assert ranked(*others, tolerance=0.2, costs=costs).winner == "ia3"
    assert ranked(*others, tolerance=0.019, costs=costs).winner == "qdora"
    assert ranked(*others, tolerance=0.2).winner == "qdora", "of equal costs the better score"
    assert ranked(*others, tolerance=0.02, costs=costs).conclusion == (
        "qlora wins: it is the cheapest (2 EUR) of the 2 variants within 0.02 of the best fieldsMatch (qdora: 0.83; "
        "qlora: 0.81).")


def test_a_lower_loss_is_within_the_tolerance_of_a_loss():
    worse = VariantComparison(variant="qlora", score=0.85)
    assert ranked(worse, tolerance=0.02, metric=Metric.LOSS, costs={"qlora": "0.1"}).winner == "qlora"
    assert ranked(worse, tolerance=0.01, metric=Metric.LOSS, costs={"qlora": "0.1"}).winner == "qdora"


def test_one_result_wins_and_none_does_not():
    assert ranked().winner == "qdora"
    nothing = rank(Comparison(metric="loss", variants=()), {}, RankBy(metric=Metric.LOSS))
    assert (nothing.variants, nothing.winner, nothing.conclusion) == ((), None, "No variant has a result.")
