"""The values of cells: each has one form as text and one as JSON, or is refused.

Rows come from JSON, CSV, parquet and the hub. Their values become plain data here, so that no Python notation (`None`,
`nan`, `b'…'`, `<built-in method …>`) is ever trained.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn

from jinja2 import Undefined

_DECIMAL = re.compile("\"\ue000([-0-9.]+)\ue001\"")
_BLANK_LINES = re.compile(r"\A(?:[^\S\r\n]*\r?\n)+")


class NoText(TypeError):
    """A value has no form as text; the message says what it is."""


class Null(str):
    """A cell without a value: an empty text that is `none` for templates and null as JSON."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or str.__eq__(self, other)

    __hash__ = str.__hash__


NULL = Null()


class Unwritable:
    """A value that a template may use but not write: a method, or a value without a form as text.

    Attributes:
        why: what it is, for messages.
        function: the function that a call runs; None where it can't be called.
    """

    __slots__ = ("function", "why")

    def __init__(self, why: str, function: Any = None) -> None:
        self.why = why
        self.function = function

    def __str__(self) -> NoReturn:
        raise NoText(self.why)

    __repr__ = __str__

    def __format__(self, form: str) -> NoReturn:
        raise NoText(self.why)


def as_data(value: Any) -> Any:
    """A value as templates see it: texts, numbers, booleans, dates, and lists and mappings of these."""
    if isinstance(value, str | bool | int | date | time | timedelta | Unwritable):
        return value
    if value is None:
        return NULL
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    if isinstance(value, Decimal):
        return Decimal(format(value, "f")) if value.is_finite() else _not_finite(value)
    if isinstance(value, bytes | bytearray):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return Unwritable("it is bytes that are not UTF-8")
    return Unwritable(f"it is a {type(value).__name__}, which has no form as text")


def _not_finite(value: Any) -> Unwritable:
    return Unwritable(f"{value} is not a number that JSON or a text can hold")


def as_text(value: Any) -> str:
    """A value as text: empty for null; lists, mappings and booleans as JSON; dates as `2024-01-31`.

    Raises:
        NoText: the value has no form as text.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | Mapping | list | tuple | float):
        return to_json(value)
    if isinstance(value, int | Decimal | date | time | timedelta | Unwritable):
        return str(value)
    if isinstance(value, Undefined):
        return str(value)  # Raises an error with the name.
    raise NoText(f"it is a {type(value).__name__}, which has no form as text")


def joined(parts: Iterable[Any]) -> str:
    """Values as one text, each written as `as_text` does."""
    return "".join(map(as_text, parts))


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON: numbers as they are, dates and times as ISO 8601, durations in seconds.

    Raises:
        NoText: a part of the value has no form as JSON.
        ValueError: a number is not finite, or has too many digits.
    """
    text = json.dumps(_jsonable(value), ensure_ascii=False, indent=indent, allow_nan=False)
    return _DECIMAL.sub(r"\1", text) if "\ue000" in text else text


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, Null):
        return None
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Decimal):
        return f"\ue000{value:f}\ue001"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Unwritable):
        raise NoText(value.why)
    if isinstance(value, Undefined):
        str(value)  # Raises an error with the name.
    raise NoText(f"it is a {type(value).__name__}, which JSON can't hold")


def strict_json(text: str) -> Any:
    """JSON by its standard: no NaN, no Infinity, no key twice in an object, no nesting beyond what can be read.

    Raises:
        ValueError: the text is not such JSON; the message says why and, where it is known, at which character.
    """
    try:
        return STRICT_DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error
    except ValueError as error:
        if "digits" in str(error):
            raise ValueError(f"a number of more than {sys.get_int_max_str_digits()} digits can't be read; write it as "
                             "text, in quotes") from error
        raise


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value; write null, or leave the row out")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is larger than a number can be")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands in an object {names.count(twice)} times, and only one value can be "
                         "meant; remove or rename the others")
    return found


STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object)
"""Reads JSON by its standard, without NaN, Infinity and keys that an object has twice; raises ValueError."""


def surrogate(text: str) -> str | None:
    """The error of a text with a lone surrogate (half of a character); None for any other text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (f"character {error.start + 1} is a lone surrogate (U+{ord(text[error.start]):04X}), half of a "
                "character that was cut; correct the text")
    return None


def trimmed(text: str) -> str:
    """A text without blank lines before it and blanks after it. The indentation of its first line is kept."""
    return _BLANK_LINES.sub("", text.rstrip())
