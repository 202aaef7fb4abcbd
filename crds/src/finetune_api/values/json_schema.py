"""A JSON Schema in a job: JSON text whose length and nesting are limited.

If the CustomResourceDefinition allowed an object of any shape, it could be nested so deeply that no client can decode
it. The apiserver limits the length of a text, and this module checks its content.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from finetune_api.values.nesting import leaves

LONGEST = 32 * 1024
"""Largest number of characters of the text."""

DEEPEST = 64
"""Largest number of levels of objects and lists."""

FORM = "write the JSON Schema as JSON text: `jsonSchema: |`, and on the lines below it an object, in braces"
OBJECT_PATTERN = r"^[ \t\r\n]*\{"
_MOST_DIGITS = 300
_LARGEST = 10**_MOST_DIGITS


def parse_json_schema(value: Any) -> dict[str, Any]:
    """Read the JSON text of a schema. An object, as in run configurations and manifests, is accepted too.

    Raises:
        ValueError: it is no JSON object, is longer than `LONGEST`, is nested deeper than `DEEPEST`, or has a number or
            a text that JSON cannot hold.
    """
    if isinstance(value, str):
        if not re.match(OBJECT_PATTERN, value):
            raise ValueError(FORM)
        if len(value) > LONGEST:
            raise ValueError(f"the JSON Schema has {len(value)} characters; write at most {LONGEST}")
        value = _decode(value)
    if not isinstance(value, Mapping):
        raise ValueError(FORM)
    for leaf in leaves(value, DEEPEST):
        _check_leaf(leaf)
    return dict(value)


def _decode(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels; write a flatter value") from None
    except ValueError as error:
        raise ValueError(f"the JSON Schema is not valid JSON: {error}") from None


def _check_leaf(leaf: Any) -> None:
    if isinstance(leaf, float) and not math.isfinite(leaf):
        raise ValueError("a number of the JSON Schema is too large; write a finite one")
    if isinstance(leaf, int) and not isinstance(leaf, bool) and abs(leaf) >= _LARGEST:
        raise ValueError(f"a number of the JSON Schema has more than {_MOST_DIGITS} digits; write a smaller one")
    if isinstance(leaf, str) and not _is_unicode(leaf):
        raise ValueError("a text of the JSON Schema has half of a surrogate pair (\\ud800 to \\udfff); write the whole "
                         "character")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


JsonSchema = Annotated[
    dict[str, Any],
    BeforeValidator(parse_json_schema),
    WithJsonSchema({"type": "string", "maxLength": LONGEST}),
]
"""A JSON Schema: text in a job, plain data in memory and in messages between programs."""
