"""Which JSON values are the same, for metrics and rewards. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MISSING = object()
"""The value of a field that an answer does not have, and of a text that is no JSON that can be judged."""


def class_of(value: Any) -> str | None:
    """The class of a JSON value: equal values have the same class; None for `MISSING`.

    It is the value as JSON with sorted names and without spaces. 1 and 1.0 are one class, and true is another, at every
    level; in Python all three are equal.
    """
    if value is MISSING:
        return None
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{class_of(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(str(class_of(below)) for below in value) + "]"
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same; a missing one is the same as none."""
    return one is not MISSING and class_of(one) == class_of(other)


def is_empty(value: Any) -> bool:
    """Whether a value says that there is nothing: 0, null, or a missing field. False is an answer."""
    return value is MISSING or value is None or (value == 0 and not isinstance(value, bool))
