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
from dataclasses import dataclass, field
from typing import Any

from finetune_api.messages import MOST_FIELDS, MOST_ROWS
from finetune_api.spec.evaluation import Metric

from finetune_trainer.data.answers.categorical_fields import categorical_fields, not_categorical
from finetune_trainer.data.answers.json_answers import AnswerSchema, NotJson, parse_json
from finetune_trainer.data.answers.json_values import MISSING, class_of, is_empty, same
from finetune_trainer.evaluation.classes import FieldColumn

Scores = dict[str, Any]
_F1 = (Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO)
_BY_FIELD = (Metric.FIELDS_MATCH, Metric.FIELD_ACCURACY, *_F1)


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats per token; infinite where it overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def parse(answer: str) -> Any:
    """The JSON value of an answer; `MISSING` where it has none that can be judged (NaN and Infinity can't)."""
    try:
        return parse_json(answer)
    except NotJson:
        return MISSING


def score(expected: Sequence[str], answers: Sequence[str], metrics: Sequence[Metric],
          schema: AnswerSchema | None = None) -> Scores:
    """The metrics that compare answers, as `score_with_rows` does."""
    return score_with_rows(expected, answers, metrics, schema).scores


@dataclass(frozen=True)
class ScoredAnswers:
    """The scores of answers, of all rows and of each.

    Attributes:
        scores: by metric. Shares are rounded to six digits. A per-field metric is a mapping from field to score.
        by_row: the score of each row, for the metrics that are a mean over rows: 1 or 0, or the share of right fields.
        by_class: what F1 is made of: the values of each categorical field, of at most the first `MOST_ROWS` rows; empty
            where no F1 is wanted, or with more than `MOST_FIELDS` fields.
    """

    scores: Scores = field(default_factory=dict)
    by_row: dict[str, list[float]] = field(default_factory=dict)
    by_class: dict[str, FieldColumn] = field(default_factory=dict)


def score_with_rows(expected: Sequence[str], answers: Sequence[str], metrics: Sequence[Metric],
                    schema: AnswerSchema | None = None) -> ScoredAnswers:
    """The metrics that compare answers, and what they are made of. `answers` has the order of `expected`."""
    wanted = set(metrics)
    compared = _Compared.of(expected, answers, schema)
    columns = compared.rows(wanted, schema)
    results: Scores = {metric: round(sum(column) / len(column), 6) if column else 0.0
                       for metric, column in columns.items() if metric is not Metric.FIELD_ACCURACY}
    per_field = {Metric.FIELD_ACCURACY: accuracy, Metric.FIELD_F1_MACRO: f1_macro, Metric.FIELD_F1_MICRO: f1_micro}
    for metric, function in per_field.items():
        if metric in wanted and compared.fields:
            results[metric] = {
                name: round(function(*compared.column(name)), 6) for name in compared.fields
                if metric is not Metric.FIELD_F1_MICRO or _is_count(compared.column(name)[0])
            }
    return ScoredAnswers(
        {str(metric): results[metric] for metric in Metric if results.get(metric) not in (None, {})},
        {str(metric): columns[metric] for metric in Metric if metric in columns},
        compared.classes() if wanted.intersection(_F1) else {})


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

    def column(self, name: str) -> tuple[list[Any], list[Any]]:
        """The expected and the given values of a field."""
        return [_field(value, name) for value in self.right_values], [_field(value, name) for value in self.values]

    def classes(self) -> dict[str, FieldColumn]:
        found = {}
        for name in self.fields if len(self.fields) <= MOST_FIELDS else ():
            right, given = self.column(name)
            found[name] = FieldColumn.of(right[:MOST_ROWS], given[:MOST_ROWS], _is_count(right))
        return found

    def rows(self, wanted: Collection[Metric], schema: AnswerSchema | None) -> dict[Metric, list[float]]:
        columns: dict[Metric, list[float]] = {}
        if Metric.EXACT_MATCH in wanted:
            columns[Metric.EXACT_MATCH] = [
                float(same(value, right) if right is not MISSING else text.strip() == wish.strip())
                for text, wish, value, right in zip(self.answers, self.expected, self.values, self.right_values,
                                                    strict=True)]
        if Metric.JSON_VALID in wanted:
            columns[Metric.JSON_VALID] = [float(value is not MISSING) for value in self.values]
        if Metric.SCHEMA_VALID in wanted and schema is not None:
            columns[Metric.SCHEMA_VALID] = [float(value is not MISSING and schema.is_valid(value))
                                            for value in self.values]
        if self.fields:
            right = [[same(_field(value, name), _field(wish, name)) for name in self.fields]
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
    return all(isinstance(item, int) and not isinstance(item, bool) for item in column if item is not MISSING)


def _field(value: Any, name: str) -> Any:
    return value.get(name, MISSING) if isinstance(value, Mapping) else MISSING


def accuracy(right: Sequence[Any], given: Sequence[Any]) -> float:
    """The share of rows with the right value."""
    return sum(same(g, r) for r, g in zip(right, given, strict=True)) / len(right)


def f1_macro(right: Sequence[Any], given: Sequence[Any]) -> float:
    """The mean F1 over the expected classes. An answer without the field is a miss of the expected class."""
    expected = Counter(class_of(value) for value in right if value is not MISSING)
    answered = Counter(map(class_of, given))
    hits = Counter(class_of(wish) for wish, value in zip(right, given, strict=True) if same(wish, value))
    # 2·TP / (2·TP + FP + FN): the expected values are TP + FN, the given values TP + FP.
    return sum(2 * hits[one] / (expected[one] + answered[one]) for one in expected) / len(expected) if expected else 0.0


def f1_micro(right: Sequence[Any], given: Sequence[Any]) -> float:
    """F1 over rows; 0, null and a missing field count as empty.

    The authors of LBox Open publish this score for ljp_criminal. A present and equal value is a true positive; a wrong
    value, or a value where none is expected, is a false positive; a missing value is a false negative.
    """
    true_positives = false_positives = false_negatives = 0
    for wish, value in zip(right, given, strict=True):
        if is_empty(value):
            false_negatives += not is_empty(wish)
        elif not is_empty(wish) and same(value, wish):
            true_positives += 1
        else:
            false_positives += 1
    total = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / total if total else 0.0


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
