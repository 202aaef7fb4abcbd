"""Which fields of JSON answers decide whether an answer is right. Pure.

A top-level field of the expected answers is *categorical* if the schema lists its values, or if its expected values are
integers, booleans, or a few recurring texts. The metrics of fields and the reward `fieldsMatch` compare these; a
free-text explanation has no one right wording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.answers.json_answers import AnswerSchema

_MOST_TEXTS = 10


def categorical_fields(values: Sequence[Any], schema: AnswerSchema | None = None) -> list[str]:
    """The categorical fields, in their order in the answers."""
    return [name for name, why in _fields(values, schema).items() if why is None]


def not_categorical(values: Sequence[Any], schema: AnswerSchema | None = None) -> dict[str, str]:
    """The other fields, each with the reason why it is not categorical."""
    return {name: why for name, why in _fields(values, schema).items() if why is not None}


def _fields(values: Sequence[Any], schema: AnswerSchema | None) -> dict[str, str | None]:
    """Every field, with the reason why it is not categorical; None for a categorical field."""
    objects = [value for value in values if isinstance(value, Mapping)]
    names = list(dict.fromkeys(name for value in objects for name in value))
    listed = schema.enumerated if schema else frozenset()
    return {name: None if name in listed else _no_classes([value[name] for value in objects if name in value])
            for name in names}


def _no_classes(column: Sequence[Any]) -> str | None:
    if all(isinstance(item, int) or item is None for item in column):
        return None
    if not all(isinstance(item, str) or item is None for item in column):
        return "it has values other than texts, integers and booleans"
    texts = {item for item in column if isinstance(item, str)}
    most = min(_MOST_TEXTS, max(2, len(column) // 5))
    return None if len(texts) <= most else (f"it has {len(texts)} different texts in {len(column)} rows; a field "
                                            f"with more than {most} counts as free text")
