"""Types of the fields in a status. A reader takes more than the CustomResourceDefinition allows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

Text = Annotated[str, Field(max_length=4096)]

Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]
"""A whole number that is not negative. Readers take any: what an earlier release wrote must stay readable."""

Percent = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 100})]


def usable_time(time: datetime) -> datetime:
    """A time that can be reckoned with: one without a zone, which the apiserver takes too, is in UTC.

    Raises:
        ValueError: it is so early or so late that sums with it have no date.
    """
    if not 1900 < time.year < 2200:
        raise ValueError("write a time of the years 1901 to 2199")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


Time = Annotated[datetime, Field(strict=False), AfterValidator(usable_time)]
