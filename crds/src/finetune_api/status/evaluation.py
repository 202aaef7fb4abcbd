"""Scores on the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from finetune_api.spec.evaluation import METRICS_OF_FIELDS, Metric
from finetune_api.values.api_model import Message
from finetune_api.values.nesting import leaves

_NUMBER = {"type": "number"}
_DEEPEST_SCORES = 8


def _bounded(scores: dict[str, Any]) -> dict[str, Any]:
    for _ in leaves(scores, _DEEPEST_SCORES):
        pass
    return scores


Scores = Annotated[
    dict[str, Any],
    AfterValidator(_bounded),
    WithJsonSchema({"type": "object", "properties": {
        str(metric): {"type": "object", "additionalProperties": _NUMBER, "description": f"`{metric}` of each field."}
        if metric in METRICS_OF_FIELDS else {**_NUMBER, "description": f"`{metric}`."}
        for metric in Metric}}),
]
"""Scores by metric, and for metrics of fields by field. A reader accepts unknown metrics, but no deep nesting."""


class EvaluationScores(Message):
    """Scores on the held-out rows."""

    before: Scores | None = None
    """Scores before training."""

    after: Scores | None = None
    """Scores after training."""

    reference: Scores | None = None
    """Scores of the reference model."""


def headline(scores: Mapping[str, Any], metric: str) -> float | None:
    """A metric as one number: for a metric of fields, the mean over the fields; None where there is no number."""
    value = scores.get(str(metric))
    numbers = [_number(one) for one in (value.values() if isinstance(value, Mapping) else (value,))]
    known = [one for one in numbers if one is not None]
    return sum(known) / len(known) if known and len(known) == len(numbers) else None


def _number(value: Any) -> float | None:
    """A score as the same type wherever it is read: an apiserver stores 1.0 as 1."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
