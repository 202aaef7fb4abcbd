"""The base of every model: strict types, camelCase in YAML, and docstrings under fields as descriptions."""

from __future__ import annotations

import json
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

GROUP = "finetune.dev"
VERSION = "v1alpha1"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

Template = Annotated[str, Field(min_length=1, max_length=20_000)]
"""A Jinja template over the columns of a row."""


class ApiModel(BaseModel):
    """A part of the API. It rejects unknown fields, does not convert types, and is immutable."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )


class Message(ApiModel):
    """A message that one program writes and another reads. A reader ignores fields that it does not know."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Read a message of any release. An optional field that this release cannot read is ignored.

        Raises:
            pydantic.ValidationError: it is no such message, or a required field cannot be read.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            unread = {str(fault["loc"][0]) if fault["loc"] else "" for fault in error.errors(include_input=False)}
            optional = {field.alias for field in cls.model_fields.values() if not field.is_required()}
            if not unread <= optional:
                raise
            content = json.loads(text)
            if not unread & set(content):
                raise
        return cls.read(json.dumps({name: value for name, value in content.items() if name not in unread}))
