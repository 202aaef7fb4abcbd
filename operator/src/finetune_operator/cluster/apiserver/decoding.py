"""JSON of any depth, decoded.

What is nested too deeply is cut off. Bytes that are not UTF-8 and numbers that Python refuses are replaced. Only what
is deeper than every field that the operator reads is cut, so that the limit of the field itself refuses the object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

RawObject = dict[str, Any]
"""A Kubernetes object as the apiserver sends it, decoded from JSON."""

MAX_DEPTH = 100
"""Levels of objects and lists that are kept. `dataset.answerFormat.jsonSchema` may have 64 of them."""

_LONGEST_NUMBER = 4000
"""Digits of a whole number that Python decodes."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def decode(content: bytes) -> Any:
    """The value of a JSON text of any depth.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(content)
    except (RecursionError, ValueError):
        text = "".join(_cut_text(content.decode("utf-8", "replace")))
        return json.loads(text, parse_int=_number, strict=False)


def _cut_text(text: str) -> Iterator[str]:
    """The JSON text with null instead of what is nested deeper than `MAX_DEPTH`, in pieces."""
    depth = start = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                yield text[start:token.start()]
                yield "null"
        elif sign in "]}":
            if depth == MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    yield text[start:]


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_NUMBER else float(digits)


def cut_depth(value: Any, levels: int = MAX_DEPTH) -> Any:
    """A decoded value with None instead of what is nested deeper than some levels."""
    if isinstance(value, dict):
        return {key: cut_depth(below, levels - 1) for key, below in value.items()} if levels else None
    if isinstance(value, list):
        return [cut_depth(below, levels - 1) for below in value] if levels else None
    return value
