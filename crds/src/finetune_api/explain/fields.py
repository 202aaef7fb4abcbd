"""Finds a field of the API by its path or its name: model, type, default and documentation."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from finetune_api.values.quantities import format_duration

_LIMITS = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}", "pattern": "of the form {}"}


@dataclass(frozen=True)
class FieldDoc:
    """One field as `finetune explain` shows it.

    Attributes:
        path: where it is, such as `spec.method.lora.rank`.
        type: its type in words.
        required: whether a user must write it.
        default: its default; None if there is none, or if the trainer decides it.
        choices: the values that it accepts, if they can be listed.
        description: its documentation, in one paragraph.
        fields: the fields below it, if it is a mapping.
        limits: the bounds of a number, or the form of a text, in words; None without any.
    """

    path: str
    type: str
    required: bool
    default: str | None
    choices: tuple[str, ...]
    description: str
    fields: tuple[FieldDoc, ...]
    limits: str | None = None


def model_at(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel] | None:
    """The model with the fields below a path; None if there is none."""
    for part in path:
        if isinstance(part, int) or part.isdigit():
            continue
        field = _field(model, part)
        below = _model_of(field.annotation) if field else None
        if below is None:
            return None
        model = below
    return model


def document_field(root: type[BaseModel], path: str) -> FieldDoc:
    """The documentation of the field at a dotted path; the empty path is the root itself.

    Raises:
        KeyError: there is no such field; the message lists the fields that there are.
    """
    parts = [part for part in path.split(".") if part]
    if not parts:
        return _describe_model("", root)
    owner = model_at(root, parts[:-1])
    field = _field(owner, parts[-1]) if owner else None
    if field is None:
        known = ", ".join(f.alias or n for n, f in owner.model_fields.items()) if owner else "none"
        raise KeyError(f"no field {path}; the fields there are: {known}")
    return _describe(path, field, deep=True)


def find_fields(model: Any, name: str, path: str = "") -> tuple[str, ...]:
    """The paths of every field with a name, upper and lower case alike, those nearest the root first.

    Args:
        model: where to look: a model, or a type that holds one.
        name: the name, or the end of a dotted path, such as `rank` or `lora.rank`.
        path: the path of the model itself.
    """
    wanted, found = f".{name}".lower(), []
    below = _model_of(model)
    for key, field in below.model_fields.items() if below else ():
        own = f"{path}.{field.alias or key}".lstrip(".")
        if f".{own}".lower().endswith(wanted):
            found.append(own)
        found += find_fields(field.annotation, name, own)
    return tuple(sorted(found, key=lambda one: one.count(".")))


def _describe_model(path: str, model: type[BaseModel]) -> FieldDoc:
    fields = tuple(_describe(f"{path}.{f.alias or n}".lstrip("."), f) for n, f in model.model_fields.items())
    return FieldDoc(path, "object", True, None, (), " ".join((model.__doc__ or "").split()), fields)


def _describe(path: str, field: FieldInfo, deep: bool = False) -> FieldDoc:
    below = _model_of(field.annotation)
    default = field.default
    has_none = default is None or default is PydanticUndefined or isinstance(default, dict)
    shown = None if has_none or below else _plain(default)
    return FieldDoc(
        path=path,
        type=_type_name(field.annotation),
        required=field.is_required(),
        default=shown,
        choices=tuple(str(member.value) for member in _enum_of(field.annotation) or ()),
        description=" ".join((field.description or "").split()),
        fields=_describe_model(path, below).fields if below and deep else (),
        limits=", ".join(_limits(field.annotation, field.metadata)) or None,
    )


def _limits(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    for constraint in metadata:
        for name, words in _LIMITS.items():
            if (value := getattr(constraint, name, None)) is not None:
                yield words.format(value)
        if isinstance(constraint, FieldInfo):
            yield from _limits(None, constraint.metadata)
    if typing.get_origin(annotation) is Annotated:
        yield from _limits(None, typing.get_args(annotation)[1:])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for choice in typing.get_args(annotation):
            yield from _limits(choice, ())


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)


def _field(model: type[BaseModel], name: int | str) -> FieldInfo | None:
    return next((field for key, field in model.model_fields.items() if name in (field.alias, key)), None)


def _leaves(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return [dict]
    written = [one.json_schema for one in arguments[1:] if isinstance(one, WithJsonSchema)]
    if written and (written[0] or {}).get("type") == "string" and typing.get_origin(arguments[0]) is dict:
        return [str]  # Plain data that is written as text.
    return [leaf for argument in arguments for leaf in _leaves(argument)] if arguments else [annotation]


def _model_of(annotation: Any) -> type[BaseModel] | None:
    return next((leaf for leaf in _leaves(annotation) if isinstance(leaf, type) and issubclass(leaf, BaseModel)), None)


def _enum_of(annotation: Any) -> type[Enum] | None:
    return next((leaf for leaf in _leaves(annotation) if isinstance(leaf, type) and issubclass(leaf, Enum)), None)


def _type_name(annotation: Any) -> str:
    names = {"int": "integer", "float": "number", "bool": "boolean", "timedelta": "duration", "Decimal": "money",
             "Uri": "location", "Quantity": "quantity", "dict": "object"}
    leaf = next((leaf for leaf in _leaves(annotation) if isinstance(leaf, type) and leaf is not type(None)), str)
    if issubclass(leaf, BaseModel):
        name = "object"
    else:
        name = "string" if issubclass(leaf, Enum) else names.get(leaf.__name__, "string")
    return f"list of {name}" if "tuple[" in str(annotation) else name
