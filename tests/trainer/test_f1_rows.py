"""F1 of resampled and of exchanged rows, against the scorer and against counting by hand."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from dataclasses import replace
from typing import Any

import numpy
import pytest
from finetune_api.messages import MOST_FIELDS, MOST_ROWS, FieldClasses, RowScores
from finetune_api.spec.evaluation import Metric
from finetune_api.status.evaluation import headline
from finetune_trainer.data.answers.json_answers import AnswerSchema
from finetune_trainer.data.answers.json_values import MISSING
from finetune_trainer.data.rows import EvaluationRow, Example, TokenRow
from finetune_trainer.evaluation.comparison import VariantResult, compare, gains
from finetune_trainer.evaluation.f1_rows import F1Rows
from finetune_trainer.evaluation.scores import f1_macro, f1_micro, score_with_rows

MACRO, MICRO = Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO
VALUES: dict[str, list[Any]] = {"fine": [0, 1, 2, 3], "custody": [True, False, None],
                                "kind": ["a", "b", [1], [True], {"x": 1.0}]}
SCHEMA = AnswerSchema({"properties": {name: {"enum": values} for name, values in VALUES.items()}})


def answers(chance, count, right=0.5, wishes=None):
    """Answers as models give them: right and wrong ones, other values, missing fields, empty ones, and no JSON."""
    texts = []
    for number in range(count):
        wish = wishes[number] if wishes else {}
        value = {name: wish[name] if name in wish and chance.random() < right else
                 chance.choice([*values, 7, "other", None, 0, 1.0, True, [1.0], {"x": 1}])
                 for name, values in VALUES.items() if chance.random() < 0.9}
        texts.append(chance.choice(["", "no JSON", "[]", '{"fine": NaN}']) if chance.random() < 0.1
                     else json.dumps(value))
    return texts


def expected(chance, count):
    return [{name: chance.choice(values) for name, values in VALUES.items() if chance.random() < 0.9}
            for _ in range(count)]


def rows_of(wishes, after, before=None, first=0, schema=SCHEMA):
    """What a run publishes about its rows, as a reader gets it."""
    names = tuple(hashlib.sha256(str(first + number).encode()).hexdigest()[:16] for number in range(len(wishes)))
    texts = [json.dumps(wish) for wish in wishes]
    sides = [score_with_rows(texts, side, (MACRO, MICRO), schema).by_class if side else {} for side in (before, after)]
    written = RowScores(rows=names, answer_tokens=(1,) * len(names), fields={
        name: FieldClasses(classes=column.classes, expected=column.expected, is_count=column.is_count,
                           before=sides[0][name].given if before else (), after=column.given)
        for name, column in sides[1].items()})
    return RowScores.read(written.model_dump_json())


def published(wishes, after, metric):
    return headline(score_with_rows([json.dumps(wish) for wish in wishes], after, (metric,), SCHEMA).scores, metric)


def everything(rows):
    return numpy.arange(len(rows.names))[None]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("metric", [MACRO, MICRO])
def test_the_score_of_all_rows_is_the_published_one(metric, seed):
    chance = random.Random(seed)
    count = chance.choice([1, 2, 5, 40, 120])
    wishes = [{"fine": 0}, *expected(chance, count)]
    after = answers(chance, len(wishes), wishes=wishes)
    rows = F1Rows.of([rows_of(wishes, after)], metric, "after")
    assert rows.scores(everything(rows))[0] == pytest.approx(published(wishes, after, metric), abs=2e-6)


@pytest.mark.parametrize("metric", [MACRO, MICRO])
def test_the_score_of_drawn_rows_is_that_of_the_scorer(metric):
    chance = random.Random(3)
    wishes = expected(chance, 30)
    after = answers(chance, 30, wishes=wishes)
    rows = F1Rows.of([rows_of(wishes, after)], metric, "after")
    drawn = numpy.random.default_rng(3).integers(0, 30, (40, 30))
    drawn[0] = 4  # One row, thirty times.
    given = [json.loads(text) if text.startswith('{"') and "NaN" not in text else {} for text in after]
    function, fields = (f1_micro, ["fine"]) if metric is MICRO else (f1_macro, list(VALUES))
    for places, found in zip(drawn, rows.scores(drawn), strict=True):
        scores = []
        for name in fields:
            right = [wishes[place].get(name, MISSING) for place in places]
            if metric is MICRO or any(value is not MISSING for value in right):
                scores.append(function(right, [given[place].get(name, MISSING) for place in places]))
        assert found == pytest.approx(sum(scores) / len(scores))


def two_runs(seed, count, rights=(0.7, 0.3)):
    chance = random.Random(seed)
    wishes = expected(chance, count)
    return wishes, [answers(chance, count, right, wishes) for right in rights]


@pytest.mark.parametrize("metric", [MACRO, MICRO])
def test_up_to_fourteen_rows_that_differ_every_exchange_is_counted(metric):
    wishes, (one, other) = two_runs(1, 9)
    wishes, one, other = wishes * 2, one + one, other + one  # The last nine rows have the same answers.
    own, others = F1Rows.of([rows_of(wishes, one)], metric, "after").paired(
        F1Rows.of([rows_of(wishes, other)], metric, "after"))
    differences = []
    for exchanged in itertools.product([False, True], repeat=9):
        first, second = zip(*((b, a) if swap else (a, b) for a, b, swap in
                              zip(one, other, [*exchanged, *[False] * 9], strict=True)), strict=True)
        differences.append(published(wishes, first, metric) - published(wishes, second, metric))
    as_far = sum(abs(difference) > abs(differences[0]) - 3e-6 for difference in differences)
    assert own.p_value(others, 0) == as_far / 2**9 == others.p_value(own, 0)
    assert own.p_value(own, 0) == 1.0


def test_random_exchanges_are_near_the_exact_test():
    wishes, (one, other) = two_runs(5, 14, (0.6, 0.3))
    own, others = F1Rows.of([rows_of(wishes, one)], MACRO, "after").paired(
        F1Rows.of([rows_of(wishes, other)], MACRO, "after"))
    exact = own.p_value(others, 0)
    wishes, one, other = [*wishes, {}], [*one, "{}"], [*other, '{"fine": 7}']  # One more differs, and decides nothing.
    own, others = F1Rows.of([rows_of(wishes, one)], MACRO, "after").paired(
        F1Rows.of([rows_of(wishes, other)], MACRO, "after"))
    assert 0.02 < exact < 0.9
    assert own.p_value(others, 0) == pytest.approx(exact, abs=0.015)


def classed(chance, count, right):
    """Answers of one field of three classes, one of them rare."""
    classes = [1] * 6 + [2] * 3 + [3]
    wishes = [{"kind": chance.choice(classes)} for _ in range(count)]
    return wishes, lambda: [json.dumps(wish if chance.random() < right else {"kind": chance.choice(classes)})
                            for wish in wishes]


@pytest.mark.parametrize("count", [12, 40])
def test_chance_alone_rarely_looks_like_a_difference(count):
    chance, clear, tries = random.Random(7), 0, 120
    for seed in range(tries):
        wishes, given = classed(chance, count, 0.5)
        one, other = (F1Rows.of([rows_of(wishes, given(), schema=None)], MACRO, "after") for _ in range(2))
        own, others = one.paired(other)
        clear += own.p_value(others, seed) < 0.05
    assert 1 <= clear <= 13, "5 % of 120 are 6, and 1 to 13 in 99 % of cases"


def test_a_real_difference_is_found():
    chance, clear = random.Random(8), 0
    for seed in range(20):
        wishes, good = classed(chance, 100, 0.8)
        bad = [json.dumps({"kind": chance.choice([1, 2, 3])}) if chance.random() < 0.5 else text for text in good()]
        results = [VariantResult(name, [published(wishes, given, MACRO)], [rows_of(wishes, given, schema=None)])
                   for name, given in (("good", good()), ("bad", bad))]
        best, other = compare(results, MACRO, seed).variants
        assert best.variant == "good" and best.low < best.score < best.high
        assert other.difference == pytest.approx(other.score - best.score, abs=2e-6)
        assert other.difference_low < other.difference < other.difference_high
        clear += bool(other.is_clear)
    assert clear >= 16


def test_on_five_rows_nothing_is_clear_and_on_six_a_large_difference_is():
    for count, clear in ((5, False), (6, True)):
        wishes = [{"fine": 1}] * count
        results = [VariantResult(name, [f1], [rows_of(wishes, [json.dumps(given)] * count, schema=None)])
                   for name, given, f1 in (("right", {"fine": 1}, 1.0), ("wrong", {"fine": 2}, 0.0))]
        other = compare(results, MACRO).variants[1]
        assert (other.is_clear, other.needed_rows, other.p_value) == (clear, 6, 2 / 2**count)


@pytest.mark.parametrize("metric", [MACRO, MICRO])
def test_of_repeats_the_score_is_the_mean_over_runs_and_rows_are_exchanged_in_all_of_them(metric):
    wishes, runs = two_runs(9, 20, (0.7, 0.6, 0.3, 0.2))
    parts = [published(wishes, run, metric) for run in runs]
    results = [VariantResult("a", parts[:2], [rows_of(wishes, run) for run in runs[:2]]),
               VariantResult("b", parts[2:], [rows_of(wishes, run) for run in runs[2:]])]
    best, other = compare(results, metric).variants
    assert (best.rows, other.compared_rows) == (20, 20)
    assert best.low < best.score < best.high
    assert other.difference == pytest.approx(sum(parts[2:]) / 2 - sum(parts[:2]) / 2, abs=3e-6)
    assert other.p_value < 0.05


def test_runs_on_other_rows_are_compared_on_those_that_both_variants_have():
    chance = random.Random(11)
    wishes = [{"fine": chance.choice([1, 2])} for _ in range(40)]
    right, wrong = [json.dumps(wish) for wish in wishes], ['{"fine": 3}'] * 40
    one = VariantResult("a", [1.0, 1.0], [rows_of(wishes[:20], right[:20], schema=None),
                                          rows_of(wishes[20:], right[20:], first=20, schema=None)])
    two = VariantResult("b", [0.0], [rows_of(wishes[10:30], wrong[10:30], first=10, schema=None)])
    other = compare([one, two], MACRO).variants[1]
    assert (other.compared_rows, other.difference, other.is_clear) == (20, -1.0, True)
    elsewhere = VariantResult("b", [0.0], [rows_of(wishes[:9], wrong[:9], first=100, schema=None)])
    assert compare([one, elsewhere], MACRO).variants[1].is_clear is None
    text = VariantResult("b", [0.0], [rows_of([{"name": "x"}] * 20, ['{"name": "y"}'] * 20, schema=None)])
    assert compare([one, text], MACRO).variants[1].p_value is None, "no field in common"


def test_a_row_that_comes_twice_counts_twice_and_is_drawn_as_one():
    wishes, after = [{"fine": 1}, {"fine": 2}, {"fine": 1}], ['{"fine": 1}', '{"fine": 1}', '{"fine": 3}']
    written = rows_of(wishes, after, schema=None)
    twice = written.model_copy(update={"rows": (written.rows[0], written.rows[1], written.rows[0])})
    rows = F1Rows.of([twice], MACRO, "after")
    assert len(rows.names) == 2
    assert rows.scores(everything(rows))[0] == pytest.approx(published(wishes, after, MACRO), abs=2e-6)
    own, others = rows.paired(F1Rows.of([twice.model_copy()], MACRO, "after"))
    assert own.p_value(others, 0) == 1.0


@pytest.mark.parametrize("change", [
    {"after": (0,)}, {"after": (0, 9)}, {"after": ()}, {"expected": (0, 1, 0)}, {"classes": ()}],
    ids=["too short", "no such class", "not evaluated", "too long", "no classes"])
def test_classes_that_do_not_fit_their_rows_count_as_none(change):
    rows = rows_of([{"fine": 1}, {"fine": 2}], ['{"fine": 1}'] * 2, schema=None)
    assert F1Rows.of([rows], MACRO, "after") is not None
    broken = rows.model_copy(update={"fields": {"fine": rows.fields["fine"].model_copy(update=change)}})
    assert F1Rows.of([broken], MACRO, "after") is None
    (alone,) = compare([VariantResult("a", [0.5], [broken])], MACRO).variants
    assert (alone.score, alone.low, alone.rows) == (0.5, None, 0)


def test_a_result_of_an_earlier_version_has_a_score_and_no_interval():
    wishes, (one, other) = two_runs(2, 20)
    earlier = RowScores.read(json.dumps({"schemaVersion": 1, "rows": ["0" * 16], "answerTokens": [1],
                                         "after": {"exactMatch": [1.0]}}))
    assert earlier.fields == {}
    found = compare([VariantResult("old", [0.9], [earlier]),
                     VariantResult("new", [0.5], [rows_of(wishes, one)])], MACRO)
    assert (found.variants[0].low, found.variants[1].is_clear) == (None, None)
    assert found.variants[1].low is not None
    assert F1Rows.of([rows_of(wishes, other, schema=None)], MACRO, "before") is None


def test_what_cannot_be_read_of_the_classes_leaves_the_rest():
    wishes, (one, _) = two_runs(2, 20)
    rows = rows_of(wishes, one)
    content = json.loads(rows.model_dump_json())
    content["fields"]["fine"]["after"][0] = -3
    read = RowScores.read(json.dumps(content))
    assert (read.rows, read.fields) == (rows.rows, {})


def test_the_file_is_bounded_in_rows_and_fields():
    right = [json.dumps({"fine": number % 7}) for number in range(MOST_ROWS + 5)]
    (column,) = score_with_rows(right, right, (MACRO,)).by_class.values()
    assert len(column.expected) == len(column.given) == MOST_ROWS
    many = [json.dumps({f"field-{number}": 1 for number in range(MOST_FIELDS + 1)})] * 3
    assert score_with_rows(many, many, (MACRO,)).by_class == {}
    assert score_with_rows(many[:1], many[:1], (Metric.FIELDS_MATCH,)).by_class == {}
    digests = score_with_rows(['{"kind": "secret"}'], ["{}"], (MACRO,)).by_class["kind"].classes
    assert digests == (hashlib.sha256(b'"secret"').hexdigest()[:16],)


def test_an_evaluation_that_is_read_from_its_file_is_published_as_one_that_was_made():
    from finetune_trainer.evaluation.evaluate import NOTHING, Evaluation  # These import torch.
    from finetune_trainer.publish.row_scores import row_scores

    wishes, (after, before) = two_runs(4, 20)
    texts = [json.dumps(wish) for wish in wishes]
    rows = [EvaluationRow(Example("row", (), text), TokenRow((1,), (2,))) for text in texts]
    made = [replace(NOTHING, by_class=score_with_rows(texts, side, (MACRO,), SCHEMA).by_class)
            for side in (before, after)]
    read = Evaluation.from_json(json.loads(json.dumps(made[0].to_json())))
    written = row_scores(rows, read, made[1])
    assert written == row_scores(rows, *made)
    assert written.fields["fine"].before == made[0].by_class["fine"].given
    assert row_scores(rows, None, made[1]).fields["fine"].before == ()
    earlier = {name: value for name, value in made[0].to_json().items() if name != "by_class"}
    assert Evaluation.from_json(earlier).by_class == {}, "of an attempt with an earlier version"


@pytest.mark.parametrize("metric", [MACRO, Metric.LOSS, Metric.FIELDS_MATCH])
def test_what_training_has_gained_is_compared_with_the_same_rows_before(metric):
    wishes, (after, before) = two_runs(4, 60, (0.8, 0.1))
    rows = rows_of(wishes, after, before).model_copy(update={
        "before": {"loss": (2.0,) * 60, "fieldsMatch": (0.0,) * 60},
        "after": {"loss": (1.0,) * 60, "fieldsMatch": (1.0,) * 20 + (0.0,) * 40}})
    without = rows_of(wishes, after)
    results = [VariantResult("a", [0.5], [rows]), VariantResult("b", [0.5], [without])]
    found = gains(results, metric)
    assert list(found) == ["a"], "b has no evaluation before training"
    gain = found["a"]
    wanted = {MACRO: published(wishes, after, MACRO) - published(wishes, before, MACRO), Metric.LOSS: -1.0,
              Metric.FIELDS_MATCH: 1 / 3}[metric]
    assert gain.value == pytest.approx(wanted, abs=3e-6)
    assert gain.low <= gain.value <= gain.high
    assert gain.is_clear and gain.rows == 60
    both = gains([VariantResult(name, [0.5], [rows]) for name in "ab"], metric)
    assert both["a"].p_value == pytest.approx(2 * gain.p_value), "two variants are two comparisons"
