"""Reads stored data without the fields that cannot be read, because another version or another client wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def read_readable(model: type[Model], raw: Mapping[str, Any], instead: Mapping[str, Any] | None = None) -> Model:
    """Read plain data. It never raises: fields that cannot be read are left out.

    Args:
        model: whose fields all have defaults.
        raw: the plain data.
        instead: values of fields that are there and cannot be read.
    """
    whole = _read(model, raw)
    if whole is not None:
        return whole
    readable = {name: value for name, value in raw.items() if _read(model, {name: value}) is not None}
    others = {name: value for name, value in (instead or {}).items() if raw.get(name) and name not in readable}
    return model.model_validate_json(json.dumps({**readable, **others}))


def _read(model: type[Model], raw: Mapping[str, Any]) -> Model | None:
    try:
        return model.model_validate_json(json.dumps(raw))
    except (ValueError, RecursionError):
        return None
