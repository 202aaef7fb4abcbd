"""Makes a status fit its schema, so that the apiserver accepts it.

A wrong clock, a trainer that reports nonsense or a text that is too long must not prevent the rest of the status.
Numbers are clamped, texts are cut, and a value that cannot fit is left out.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from finetune_api.definition.crd import crd
from finetune_api.definition.experiment_crd import experiment_crd

_NOTHING = object()
_LARGEST = 2**53
"""Largest whole number: a JSON reader that uses floats cannot read a larger one exactly."""


@functools.cache
def _status_schema(define: Callable[[], dict[str, Any]]) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = define()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return schema


def fitting_status(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a job, as plain data that matches the CustomResourceDefinition."""
    return _fitting(status, crd)


def fitting_experiment_status(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status of an experiment, as plain data that matches the CustomResourceDefinition."""
    return _fitting(status, experiment_crd)


def _fitting(status: Mapping[str, Any], define: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    fitted = _fit(status, _status_schema(define))
    return fitted if isinstance(fitted, dict) else {}


def _fit(value: Any, schema: Mapping[str, Any]) -> Any:
    if schema.get("x-kubernetes-int-or-string"):
        return value if re.fullmatch(schema["pattern"], str(value)) else _NOTHING
    match schema.get("type"):
        case "object":
            return _fit_object(value, schema) if isinstance(value, Mapping) else _NOTHING
        case "array":
            if not isinstance(value, list | tuple):
                return _NOTHING
            items = [item for one in value if (item := _fit(one, schema["items"])) is not _NOTHING]
            return items[-schema.get("maxItems", len(items)):] if items else []
        case "string":
            return _fit_text(value, schema)
        case "boolean":
            return value if isinstance(value, bool) else _NOTHING
        case _:
            return _fit_number(value, schema)


def _fit_object(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    fitted = {name: below for name, one in value.items() if (rule := known.get(name, others)) is not None
              and (below := _fit(one, rule)) is not _NOTHING}
    return fitted if all(name in fitted for name in schema.get("required", ())) else _NOTHING


def _fit_text(value: Any, schema: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return _NOTHING
    text = value[:schema.get("maxLength", len(value))]
    allowed = text in schema.get("enum", (text,)) and re.search(schema.get("pattern", ""), text)
    return text if allowed else _NOTHING


def _fit_number(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NOTHING
    if schema["type"] == "integer":
        if not math.isfinite(value):
            return _NOTHING
        value = min(max(int(value), -_LARGEST), _LARGEST)
    elif isinstance(value, float) and not math.isfinite(value):
        return _NOTHING
    value = max(value, schema.get("minimum", value))
    return min(value, schema.get("maximum", value))
