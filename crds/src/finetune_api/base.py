"""What every model of the API shares: strict types, camelCase in YAML, docstrings under fields as descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "finetune.dev"
VERSION = "v1alpha1"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""


class ApiModel(BaseModel):
    """A part of the API: unknown fields are refused, types are not coerced, values do not change once read."""

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
    """Something that one program writes and another reads: a reader takes newer fields without failing."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)
