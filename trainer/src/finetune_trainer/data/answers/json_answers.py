"""Reading JSON answers, and checking them with a JSON Schema.

A model, a data set or a schema can contain anything: numbers of 400 digits, a thousand brackets, half a surrogate
pair, a pattern that never ends. An answer that can't be judged is wrong. To decide takes a second at most.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from finetune_trainer.data.time_limit import TookTooLong, within
from finetune_trainer.errors import BadConfig

SECONDS = 1.0
"""The longest time to check one answer with a schema."""

_LEVELS = 64
"""The deepest nesting of an answer: Python's stack holds the schema's rules of each level."""

_FIELD = "spec.dataset.answerFormat.jsonSchema"


class NotJson(ValueError):
    """A text is not a JSON value that can be judged; the message says why."""


def parse_json(text: str) -> Any:
    """The JSON value of a text.

    RFC 8259, with these limits: no NaN and no Infinity (which Python reads), numbers that a float64 holds, text that is
    Unicode, at most 64 levels.

    Raises:
        NotJson: the text is not JSON, or exceeds a limit.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise NotJson(f"nested more than {_LEVELS} levels deep") from error
    except ValueError as error:  # Python reads no number of more than 4300 digits.
        raise NotJson("a number has too many digits") from error
    _check(value)
    return value


def _refuse_constant(name: str) -> Any:
    raise NotJson(f"{name} is not a JSON value")


def _check(value: Any) -> None:
    items = [value]
    for level in range(_LEVELS + 1):
        below: list[Any] = []
        for item in items:
            if level == _LEVELS and isinstance(item, dict | list):
                raise NotJson(f"nested more than {_LEVELS} levels deep")
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
                    raise NotJson("half a surrogate pair is not a character")
            elif isinstance(item, int | float) and not -sys.float_info.max <= item <= sys.float_info.max:
                raise NotJson("a number is too large for 64 bits")
        items = below


class AnswerSchema:
    """A JSON Schema (draft 2020-12) that answers are checked with.

    Raises:
        BadConfig: it is not a valid schema, or a reference leads out of it. Nothing is ever fetched.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
            unresolved = _unresolved(schema)
        except jsonschema.SchemaError as error:
            raise BadConfig(f"{_FIELD}: not a valid JSON Schema: {error.message[:200]}") from error
        except Exception as error:  # A pattern alone can raise several kinds of errors.
            raise BadConfig(f"{_FIELD}: the JSON Schema can't be used: {type(error).__name__}: {error}") from error
        if unresolved is not None:
            raise BadConfig(f"{_FIELD}: the reference {unresolved!r} leads to nothing in the schema, and schemas are "
                            "not fetched from elsewhere; put its target under $defs and refer to it as #/$defs/NAME")
        self._validator = jsonschema.Draft202012Validator(schema, registry=REGISTRY)
        properties = _followed(schema, schema).get("properties", {})
        self.enumerated = frozenset(name for name, below in properties.items() if _is_enumerated(below, schema))
        """The fields of an answer whose values the schema lists (`enum`, `const`)."""

    def fault(self, value: Any) -> str | None:
        """Says where an answer breaks the schema, or why it can't be checked; None where the answer is valid.

        Raises:
            TookTooLong: the check takes more than `SECONDS`.
        """
        try:
            found = within(SECONDS, jsonschema.exceptions.best_match, self._validator.iter_errors(value))
        except TookTooLong:
            raise
        except RecursionError:
            return "the answer can't be checked: the schema refers to itself without end"
        except Exception as error:  # For example arithmetic: jsonschema divides any numbers.
            return f"the answer can't be checked with the schema: {type(error).__name__}: {error}"
        return found and f"the answer breaks the schema at {found.json_path}: {found.message[:200]}"

    def is_valid(self, value: Any) -> bool:
        """Whether an answer is valid by the schema; False where it can't be checked."""
        try:
            return within(SECONDS, self._validator.is_valid, value)
        except Exception:  # The answer can't be judged, and the run continues.
            return False


def _followed(part: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a schema that a part refers to, or the part itself; empty where the reference is no simple path."""
    for _ in range(_LEVELS):
        if not isinstance(part, Mapping):
            return {}
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return part
        part = schema
        for name in reference.split("/")[1:]:
            part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, Mapping) else None
    return {}


def _is_enumerated(part: Any, schema: Mapping[str, Any], levels: int = 8) -> bool:
    part = _followed(part, schema)
    if "enum" in part or "const" in part or part.get("type") == "null":
        return True
    choices = part.get("anyOf") or part.get("oneOf")
    return isinstance(choices, list) and levels > 0 and all(_is_enumerated(choice, schema, levels - 1)
                                                           for choice in choices)


def _unresolved(schema: Mapping[str, Any]) -> str | None:
    """The first reference that leads to nothing in the schema; None where all can be resolved."""
    root = DRAFT202012.create_resource(schema)
    pending = [(REGISTRY.resolver_with_root(root), root)]
    visited: set[int] = set()
    while pending:
        resolver, resource = pending.pop()
        if not isinstance(resource.contents, Mapping) or id(resource.contents) in visited:
            continue
        visited.add(id(resource.contents))
        for reference in _references(resource.contents):
            try:
                found = resolver.lookup(reference)
            except (Unresolvable, ValueError):
                return reference
            pending.append((found.resolver, DRAFT202012.create_resource(found.contents)))
        pending += [(resolver.in_subresource(below), below) for below in resource.subresources()]
        for pattern in (resource.contents.get("pattern", ""), *resource.contents.get("patternProperties", {})):
            re.compile(pattern)
    return None


def _references(contents: Mapping[str, Any]) -> Iterator[str]:
    for keyword in ("$ref", "$dynamicRef"):
        if isinstance(reference := contents.get(keyword), str):
            yield reference
