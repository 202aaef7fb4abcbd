"""Types of the fields in a status. A reader takes more than the CustomResourceDefinition allows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

Text = Annotated[str, Field(max_length=4096)]

Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]
"""A whole number of at least 0. A reader accepts any number, since it must read what earlier releases wrote."""

Percent = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 100})]


def usable_time(time: datetime) -> datetime:
    """A time that arithmetic can use. A time without a zone, which the apiserver accepts, is in UTC.

    Raises:
        ValueError: it is so early or so late that sums with it overflow.
    """
    if not 1900 < time.year < 2200:
        raise ValueError("write a time of the years 1901 to 2199")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


Time = Annotated[datetime, Field(strict=False), AfterValidator(usable_time)]
