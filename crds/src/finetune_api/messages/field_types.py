"""Types of the fields in messages."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from finetune_api.values.printable import printable

Timestamp = Annotated[datetime, Field(strict=False)]
Date = Annotated[date, Field(strict=False)]


def _clean(text: Any) -> Any:
    return printable(text) if isinstance(text, str) else text


Sentence = Annotated[str, BeforeValidator(_clean)]
"""Text for people. Bytes of a name that are not UTF-8, and control characters, are written as escapes."""
