"""Scores, against numbers worked out by hand."""

import json
import time

import pytest
from finetune_api.spec.evaluation import GateSpec, Metric
from finetune_api.status.evaluation import headline
from finetune_trainer.data.answers.categorical_fields import categorical_fields
from finetune_trainer.data.answers.json_answers import AnswerSchema
from finetune_trainer.evaluation.gate import judge
from finetune_trainer.evaluation.scores import (
    absent,
    f1_macro,
    f1_micro,
    majority_scores,
    parse,
    perplexity,
    score,
    score_with_rows,
)

ALL = tuple(Metric)


def _answers(*levels):
    return [json.dumps({"fine": level, "reason": f"because of {number}"}) for number, level in enumerate(levels)]


def test_a_free_text_does_not_decide_whether_the_fields_are_right():
    values = [json.loads(text) for text in _answers(0, 1, 2, 0, 1, 2)]
    assert categorical_fields(values) == ["fine"]


def test_every_row_has_a_score_of_its_own():
    right = [json.dumps({"fine": 1, "custody": True}), json.dumps({"fine": 2, "custody": False})] * 3
    given = [right[0], json.dumps({"fine": 2, "custody": True}), "no JSON", right[1], right[0], right[1]]
    rows = score_with_rows(right, given, ALL).by_row
    assert rows == {"exactMatch": [1, 0, 0, 1, 1, 1], "jsonValid": [1, 1, 0, 1, 1, 1],
                    "fieldsMatch": [1, 0, 0, 1, 1, 1], "fieldAccuracy": [1, 0.5, 0, 1, 1, 1]}
    assert score(right, given, ALL)["fieldsMatch"] == round(4 / 6, 6)


def test_recurring_texts_are_classes():
    assert categorical_fields([{"verdict": word} for word in ["guilty", "free"] * 5]) == ["verdict"]


def test_a_field_whose_values_the_schema_lists_is_a_class_however_many_there_are():
    words = [f"word{number}" for number in range(30)]
    answers = [json.dumps({"kind": word, "note": f"because of {word}", "same": word}) for word in words]
    schema = AnswerSchema({"$ref": "#/$defs/answer", "$defs": {
        "answer": {"properties": {"kind": {"$ref": "#/$defs/kind"}, "note": {"type": "string"},
                                  "same": {"anyOf": [{"enum": words}, {"type": "null"}]}}},
        "kind": {"enum": words}}})
    scores = score(answers, answers, ALL, schema)
    assert scores["fieldAccuracy"] == {"kind": 1.0, "same": 1.0}
    assert scores["fieldsMatch"] == 1.0
    assert majority_scores(answers, answers, ALL, schema)["fieldsMatch"] == pytest.approx(1 / 30, abs=1e-6)


def test_a_metric_that_is_absent_says_why():
    words = [json.dumps({"kind": f"word{number}", "share": 0.5}) for number in range(30)]
    why = absent(words, ALL)
    assert "kind is left out: it has 30 different texts in 30 rows; a field with more than 6 counts as free text" in why
    assert "share is left out: it has values other than texts, integers and booleans" in why
    assert "fieldF1Micro is not measured: no field has integers" in why
    assert "list a field's values as an enum in dataset.answerFormat.jsonSchema" in why
    assert absent(["plain"], (Metric.FIELD_ACCURACY,)).startswith("fieldAccuracy: not measured, because the expected")
    assert absent(words, (Metric.LOSS,)) is None
    assert absent(['{"level": 1}'], ALL) is None


def test_answers_are_scored_field_by_field():
    expected = _answers(1, 1, 0, 2)
    answers = ['{"fine": 1, "reason": "other"}', '{"fine": 0, "reason": "x"}', "no JSON", expected[3]]
    schema = {"type": "object", "properties": {"fine": {"enum": [1, 2]}}}
    scores = score(expected, answers, ALL, AnswerSchema(schema))
    assert scores["jsonValid"] == 0.75
    assert scores["schemaValid"] == 0.5
    assert scores["exactMatch"] == 0.25
    assert scores["fieldsMatch"] == 0.5
    assert scores["fieldAccuracy"] == {"fine": 0.5}


def test_macro_f1_is_the_mean_over_the_expected_classes():
    # class 1: 1 hit, 0 wrong, 1 missed -> 2/3; class 0: 0 hits -> 0; class 2: 1 hit -> 1
    assert f1_macro([1, 1, 0, 2], [1, 0, None, 2]) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_micro_f1_counts_zero_as_empty_as_the_authors_of_the_data_set_do():
    # right: tp; wrong value: fp; value where there is none: fp; missing: fn; both empty: nothing
    assert f1_micro([2, 1, 0, 3, 0], [2, 2, 1, 0, 0]) == pytest.approx(2 / (2 + 2 + 1))
    assert f1_micro([0, 0], [0, 0]) == 0.0


def test_true_is_not_one():
    assert score(['{"a": 1}'], ['{"a": true}'], (Metric.FIELDS_MATCH,))["fieldsMatch"] == 0.0


def test_nan_and_deep_nesting_are_no_json():
    assert parse("NaN") is parse("[" * 100_000)
    assert parse('{"a": 1}') == {"a": 1}


def test_the_majority_gives_the_most_common_value_of_each_field_and_combination():
    train = ['{"a": 1, "b": 0}', '{"a": 1, "b": 0}', '{"a": 1, "b": 2}', '{"a": 0, "b": 2}', '{"a": 0, "b": 2}',
             '{"a": 0, "b": 2}', '{"a": 1, "b": 3}']
    scores = majority_scores(train, ['{"a": 1, "b": 2}', '{"a": 0, "b": 2}'], ALL)
    assert scores["fieldAccuracy"] == {"a": 0.5, "b": 1.0}
    assert scores["fieldsMatch"] == 0.5
    assert "jsonValid" not in scores
    assert majority_scores(["free text"], ["free text"], ALL) is None


def test_text_answers_have_an_exact_match_and_no_fields():
    assert score([" yes "], ["yes"], (Metric.EXACT_MATCH, Metric.FIELDS_MATCH)) == {"exactMatch": 1.0}


def test_perplexity_of_a_huge_loss_is_infinite():
    assert perplexity(1000.0) == float("inf")
    assert perplexity(0.0) == 1.0


@pytest.mark.parametrize(("metric", "before", "after", "minimum", "passed"), [
    (Metric.LOSS, {"loss": 2.0}, {"loss": 1.0}, 0.5, True),
    (Metric.LOSS, {"loss": 1.0}, {"loss": 2.0}, 0.0, False),
    (Metric.FIELD_F1_MACRO, {"fieldF1Macro": {"a": 0.0, "b": 0.5}}, {"fieldF1Macro": {"a": 0.5, "b": 0.5}}, 0.25, True),
    (Metric.EXACT_MATCH, {}, {"exactMatch": 1.0}, 0.0, False),
])
def test_the_gate_compares_before_and_after(metric, before, after, minimum, passed):
    verdict = judge(GateSpec(metric=metric, minimum_gain=minimum), before, after)
    assert verdict.passed is passed


def test_a_per_field_metric_has_its_mean_as_headline():
    assert headline({"fieldAccuracy": {"a": 1.0, "b": 0.0}}, Metric.FIELD_ACCURACY) == 0.5
    assert headline({}, Metric.LOSS) is None


def test_classes_are_counted_once_however_many_there_are():
    right = list(range(30_000))
    began = time.monotonic()
    assert f1_macro(right, [*right[:15_000], *[None] * 7_500, *[[1]] * 7_500]) == 0.5
    assert time.monotonic() - began < 5


def test_one_is_the_class_of_one_point_nought_and_true_is_another():
    assert f1_macro([1, 1, True, "1", None], [1.0, True, 1, "1", None]) == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_values_are_the_same_at_every_level_or_not_at_all():
    assert score(['{"a": [1, {"b": 0}]}'] * 3, ['{"a": [1.0, {"b": 0}]}', '{"a": [true, {"b": 0}]}',
                                                '{"a": [1, {"b": false}]}'], ALL)["exactMatch"] == 0.333333
    assert score(['{"a": {"x": 1, "y": 2}}'], ['{"a": {"y": 2, "x": 1}}'], ALL)["exactMatch"] == 1.0
    assert f1_macro([[1], [2], {"x": 1}], [[1], [1], {"x": True}]) == pytest.approx((2 / 3 + 0 + 0) / 3)
