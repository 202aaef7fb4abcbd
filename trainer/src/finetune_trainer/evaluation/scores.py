"""Scores of answers, compared with the expected answers. Pure: texts in, numbers out.

A JSON answer is compared field by field, for the top-level fields of the expected answers. Only categorical fields
(data/answers/categorical_fields.py) have F1 scores and count for `fieldsMatch`, so a free-text explanation does not
decide whether an answer is right.

rewards/judging.py finds the number, the choice or the text in a response, and compares it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.spec.evaluation import Metric

from finetune_trainer.data.answers.categorical_fields import categorical_fields, not_categorical
from finetune_trainer.data.answers.json_answers import AnswerSchema, NotJson, parse_json

Scores = dict[str, Any]
_MISSING = object()
_BY_FIELD = (Metric.FIELDS_MATCH, Metric.FIELD_ACCURACY, Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO)


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats per token; infinite where it overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def parse(answer: str) -> Any:
    """The JSON value of an answer; `_MISSING` where it has none that can be judged (NaN and Infinity can't)."""
    try:
        return parse_json(answer)
    except NotJson:
        return _MISSING


def score(expected: Sequence[str], answers: Sequence[str], metrics: Sequence[Metric],
          schema: AnswerSchema | None = None) -> Scores:
    """The metrics that compare answers, as `score_with_rows` does."""
    return score_with_rows(expected, answers, metrics, schema)[0]


def score_with_rows(expected: Sequence[str], answers: Sequence[str], metrics: Sequence[Metric],
                    schema: AnswerSchema | None = None) -> tuple[Scores, dict[str, list[float]]]:
    """The metrics that compare answers, and the score of each row. `answers` has the order of `expected`.

    Shares are rounded to six digits. A per-field metric is a mapping from field to score. Rows have scores for the
    metrics that are a mean over rows: 1 or 0, or the share of right fields.
    """
    wanted = set(metrics)
    compared = _Compared.of(expected, answers, schema)
    right_values, values, fields = compared.right_values, compared.values, compared.fields
    columns = compared.rows(wanted, schema)
    results: Scores = {metric: round(sum(column) / len(column), 6) if column else 0.0
                       for metric, column in columns.items() if metric is not Metric.FIELD_ACCURACY}
    per_field = {Metric.FIELD_ACCURACY: accuracy, Metric.FIELD_F1_MACRO: f1_macro, Metric.FIELD_F1_MICRO: f1_micro}
    for metric, function in per_field.items():
        if metric in wanted and fields:
            results[metric] = {
                field: round(function([_field(v, field) for v in right_values], [_field(v, field) for v in values]), 6)
                for field in fields
                if metric is not Metric.FIELD_F1_MICRO or _is_count([_field(v, field) for v in right_values])
            }
    return ({str(metric): results[metric] for metric in Metric if results.get(metric) not in (None, {})},
            {str(metric): columns[metric] for metric in Metric if metric in columns})


@dataclass(frozen=True)
class _Compared:
    """Answers beside the expected ones: both as text and as JSON, and the categorical fields."""

    expected: Sequence[str]
    answers: Sequence[str]
    right_values: Sequence[Any]
    values: Sequence[Any]
    fields: Sequence[str]

    @classmethod
    def of(cls, expected: Sequence[str], answers: Sequence[str], schema: AnswerSchema | None) -> _Compared:
        right_values = [parse(text) for text in expected]
        return cls(expected, answers, right_values, [parse(text) for text in answers],
                   categorical_fields(right_values, schema))

    def rows(self, wanted: Collection[Metric], schema: AnswerSchema | None) -> dict[Metric, list[float]]:
        columns: dict[Metric, list[float]] = {}
        if Metric.EXACT_MATCH in wanted:
            columns[Metric.EXACT_MATCH] = [
                float(_same(value, right) if right is not _MISSING else text.strip() == wish.strip())
                for text, wish, value, right in zip(self.answers, self.expected, self.values, self.right_values,
                                                    strict=True)]
        if Metric.JSON_VALID in wanted:
            columns[Metric.JSON_VALID] = [float(value is not _MISSING) for value in self.values]
        if Metric.SCHEMA_VALID in wanted and schema is not None:
            columns[Metric.SCHEMA_VALID] = [float(value is not _MISSING and schema.is_valid(value))
                                            for value in self.values]
        if self.fields:
            right = [[_same(_field(value, field), _field(wish, field)) for field in self.fields]
                     for value, wish in zip(self.values, self.right_values, strict=True)]
            if Metric.FIELDS_MATCH in wanted:
                columns[Metric.FIELDS_MATCH] = [float(all(row)) for row in right]
            if Metric.FIELD_ACCURACY in wanted:
                columns[Metric.FIELD_ACCURACY] = [sum(row) / len(row) for row in right]
        return columns


def absent(expected: Sequence[str], metrics: Sequence[Metric], schema: AnswerSchema | None = None) -> str | None:
    """Which of the wanted metrics have no field to compare or leave a field out, and why; None where none does."""
    values = [parse(text) for text in expected]
    wanted = [metric for metric in metrics if metric in _BY_FIELD]
    missing = not_categorical(values, schema)
    if not wanted:
        return None
    if not any(isinstance(value, Mapping) for value in values):
        return f"{', '.join(wanted)}: not measured, because the expected answers are not JSON objects"
    parts = [f"{name} is left out: {why}" for name, why in missing.items()]
    if Metric.FIELD_F1_MICRO in wanted and not any(
            _is_count([_field(value, name) for value in values]) for name in categorical_fields(values, schema)):
        parts.append(f"{Metric.FIELD_F1_MICRO} is not measured: no field has integers")
    if not parts:
        return None
    cure = ("; list a field's values as an enum in dataset.answerFormat.jsonSchema if they are classes" if missing
            else "")
    return f"{', '.join(wanted)}: {'; '.join(parts)}{cure}"


def _is_count(column: Sequence[Any]) -> bool:
    """Whether a field's values are integers, so that 0 may mean none."""
    return all(isinstance(item, int) and not isinstance(item, bool) for item in column if item is not _MISSING)


def _field(value: Any, name: str) -> Any:
    return value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING


def _same(one: Any, other: Any) -> bool:
    # In Python True == 1 and 1.0 == 1; as JSON answers only 1.0 and 1 are the same.
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return one is not _MISSING and bool(one == other)


def accuracy(right: Sequence[Any], given: Sequence[Any]) -> float:
    """The share of rows with the right value."""
    return sum(_same(g, r) for r, g in zip(right, given, strict=True)) / len(right)


def f1_macro(right: Sequence[Any], given: Sequence[Any]) -> float:
    """The mean F1 over the expected classes. An answer without the field is a miss of the expected class."""
    expected = Counter(_class(value) for value in right if value is not _MISSING)
    answered = Counter(map(_class, given))
    hits = Counter(_class(wish) for wish, value in zip(right, given, strict=True) if _same(wish, value))
    # 2·TP / (2·TP + FP + FN): the expected values are TP + FN, the given values TP + FP.
    return sum(2 * hits[one] / (expected[one] + answered[one]) for one in expected) / len(expected) if expected else 0.0


def _class(value: Any) -> Any:
    """The class of a value: as in `_same`, 1 and 1.0 are one class, and True is another."""
    return (isinstance(value, bool), value) if value is None or isinstance(value, str | int | float) else None


def f1_micro(right: Sequence[Any], given: Sequence[Any]) -> float:
    """F1 over rows; 0, null and a missing field count as empty.

    The authors of LBox Open publish this score for ljp_criminal. A present and equal value is a true positive; a wrong
    value, or a value where none is expected, is a false positive; a missing value is a false negative.
    """
    true_positives = false_positives = false_negatives = 0
    for wish, value in zip(right, given, strict=True):
        if _is_empty(value):
            false_negatives += not _is_empty(wish)
        elif not _is_empty(wish) and _same(value, wish):
            true_positives += 1
        else:
            false_positives += 1
    total = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / total if total else 0.0


def _is_empty(value: Any) -> bool:
    return value is _MISSING or value is None or (value == 0 and not isinstance(value, bool))


def majority_scores(train_answers: Sequence[str], expected: Sequence[str], metrics: Sequence[Metric],
                    schema: AnswerSchema | None = None) -> Scores | None:
    """Scores of always giving the most common answer of the training rows; None if there are no categorical fields.

    A useful model scores higher. Per-field metrics take the most common value of each field; `fieldsMatch` takes the
    most common combination.
    """
    values = [value for value in map(parse, train_answers) if isinstance(value, Mapping)]
    fields = categorical_fields(values, schema)
    if not fields:
        return None
    each = {field: _most_common([value[field] for value in values if field in value]) for field in fields}
    together = _most_common([{field: value.get(field) for field in fields} for value in values])
    per_field = [metric for metric in metrics if metric.startswith("field") and metric is not Metric.FIELDS_MATCH]
    results = score(expected, [json.dumps(each)] * len(expected), per_field, schema)
    if Metric.FIELDS_MATCH in metrics:
        results |= score(expected, [json.dumps(together)] * len(expected), [Metric.FIELDS_MATCH], schema)
    return results


def _most_common(values: Sequence[Any]) -> Any:
    counts = Counter(json.dumps(value, sort_keys=True) for value in values)
    return json.loads(counts.most_common(1)[0][0])
