"""An error of a field: its path, its value, what is allowed and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from finetune_api.explain.fields import document_field, find_fields, model_at
from finetune_api.job import FineTuneJob
from finetune_api.reading.text_forms import describe_form

_SHOWN = 80
_MOST_PLACES = 3
_USER_INFO = re.compile(r"//[^/\s\"]*@")


@dataclass(frozen=True)
class FieldError:
    """One error.

    Attributes:
        path: the field, such as `spec.training.batchSize`; empty for the file as a whole.
        value: what the field has, shortened; None where it has nothing, or its value does not matter.
        message: what is allowed and what to write instead.
        line: line in the file, from 1, where it is known.
    """

    path: str
    value: str | None
    message: str
    line: int | None = None

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        if not self.path:
            return f"{line}{self.message}" + (f" (found {self.value})" if self.value is not None else "")
        return f"{line}{self.path}{f' is {self.value}' if self.value is not None else ''}: {self.message}"


def field_error(details: ErrorDetails, lines: Mapping[str, int], resource: type[BaseModel] = FineTuneJob) -> FieldError:
    """What pydantic found, as an error that says what to write.

    Args:
        details: the error as pydantic describes it.
        lines: line of every key by its dotted path.
        resource: the model of the whole document.
    """
    parts = [part for part in details["loc"] if part != "[key]"]
    path = ".".join(str(part) for part in parts)
    without_value = details["type"] in ("missing", "json_invalid", "extra_forbidden")
    return FieldError(path, None if without_value else shown(details["input"]), _advice(details, parts, resource),
                      line_of(path, lines))


_FIXED_ADVICE = {
    "model_type": "write a mapping (fields below it, indented)",
    "model_attributes_type": "write a mapping (fields below it, indented)",
    "dict_type": "write a mapping (fields below it, indented)",
    "tuple_type": "write a list ([a, b], or one item per line after a dash)",
    "list_type": "write a list ([a, b], or one item per line after a dash)",
    "int_type": "write a whole number, without quotes",
    "int_from_float": "write a whole number, without quotes",
    "float_type": "write a number, without quotes",
    "bool_type": "write true or false",
    "string_type": "write text, in quotes if it looks like a number",
}
_ADVICE_WITH_LIMIT = {
    "greater_than": "write a number above {gt}",
    "greater_than_equal": "write a number of at least {ge}",
    "less_than": "write a number below {lt}",
    "less_than_equal": "write a number of at most {le}",
}


def _advice(details: ErrorDetails, parts: Sequence[int | str], resource: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in _FIXED_ADVICE:
        return _FIXED_ADVICE[kind]
    if kind in _ADVICE_WITH_LIMIT:
        return _ADVICE_WITH_LIMIT[kind].format_map({name: _plain(limit) for name, limit in context.items()})
    match kind:
        case "json_invalid":
            # The position is that of the JSON text made from the file, which the user does not see.
            cause = str(context.get("error", "")).partition(" at line")[0]
            return f"the file has text that is not valid Unicode, or lists nested too deeply ({cause}): correct it"
        case "string_pattern_mismatch":
            return f"write {describe_form(str(context.get('pattern', '')))}"
        case "extra_forbidden":
            return f"unknown field: {_instead_of_unknown(parts, resource)}"
        case "missing":
            return f"missing: {document_field(resource, '.'.join(map(str, parts))).description}"
        case "enum" | "literal_error":
            return _choice(str(context.get("expected", "")), str(details["input"]), str(parts[-1]))
        case "value_error":
            return str(context.get("error", details["msg"]))
        case _:
            return str(details["msg"]).replace("Input should be", "write a value that is")


def _plain(limit: Any) -> Any:
    """A limit without a decimal point that says nothing: 1.0 is 1."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _instead_of_unknown(parts: Sequence[int | str], resource: type[BaseModel]) -> str:
    """A field of the same mapping with a similar name, or the mappings that have a field of this name."""
    owner, name = model_at(resource, parts[:-1]), str(parts[-1])
    known = _field_names(owner) if owner else []
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    elsewhere = [path for path in find_fields(resource.model_fields["spec"].annotation, name, "spec")
                 if path.count(".") <= len(parts)]
    if 0 < len(elsewhere) <= _MOST_PLACES:
        paths = " or ".join(elsewhere)
        return (f"it belongs at {paths}: indent it below {elsewhere[0].rpartition('.')[0].rpartition('.')[2]}"
                if len(elsewhere) == 1 else f"it belongs at {paths}")
    return f"write one of {', '.join(known)}"


_COMBINATIONS = {
    "qlora": "write type: LoRA with quantization: nf4, which is QLoRA",
    "qdora": "write type: DoRA with quantization: nf4, which is QDoRA",
}
"""Names of a method with a quantization: the API has two fields for them."""
_QUANTIZATIONS = {"4bit": "nf4", "4-bit": "nf4", "int4": "nf4", "fp4": "nf4", "8bit": "int8", "8-bit": "int8"}


def _choice(expected: str, value: str, field: str) -> str:
    """The values that a field takes, and the one that was meant."""
    expected = expected.replace("'", "")
    if field == "type" and value.lower() in _COMBINATIONS:
        return _COMBINATIONS[value.lower()]
    choices = expected.replace(" or ", ", ").split(", ")
    if field == "quantization" and value.lower() in _QUANTIZATIONS:
        return f"write {expected}: did you mean {_QUANTIZATIONS[value.lower()]}?"
    close = difflib.get_close_matches(value.lower(), [choice.lower() for choice in choices], n=1)
    hint = next((f": did you mean {choice}?" for choice in choices if close and choice.lower() == close[0]), "")
    return f"write {expected}{hint}"


def _field_names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def shown(value: Any) -> str | None:
    """A value as an error shows it: as JSON, without passwords, at most 80 characters; None for none."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()
    text = _USER_INFO.sub("//…@", text)  # A password in an address must not end in a log.
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def line_of(path: str, lines: Mapping[str, int]) -> int | None:
    """The line of a field, or of the nearest field above it that is written; None where none is."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return None
