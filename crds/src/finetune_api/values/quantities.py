"""Durations, money and Kubernetes quantities as parsed types.

Each type reads what `kubectl` users write, has an exact value (never a float), and writes a string that reads back as
the same value. The CustomResourceDefinition has the JSON Schema of each type.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
MONEY_PATTERN = r"^[0-9]+(\.[0-9]{1,6})?$"
QUANTITY_PATTERN = r"^[0-9]{1,18}(\.[0-9]{1,18})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
LARGEST_AMOUNT = 10**12
AMOUNT_FORM = f"write an amount of at most {LARGEST_AMOUNT}"
LONGEST_DURATION = timedelta(hours=87_600)
DURATION_FORM = "write a duration of at most 87600h (ten years)"
_WHOLE_HOURS, _LEAST_HOURS = 10, 0.0001
_MOST_DIGITS = 40
"""Largest number of digits of any amount, in a status too."""

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SUFFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def parse_duration(value: Any) -> timedelta:
    """Read a Kubernetes-style duration such as `90s`, `2h` or `1h30m`.

    Raises:
        ValueError: the text is not a duration; the message says what to write.
    """
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError("write a duration with its unit, such as 90s, 45m or 1h30m")
    seconds = sum(Decimal(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    if seconds > LONGEST_DURATION.total_seconds():
        raise ValueError(DURATION_FORM)
    return timedelta(microseconds=int(seconds * 1_000_000))


def format_duration(value: timedelta) -> str:
    """Write a duration in the shortest Kubernetes style: `timedelta(minutes=90)` is `1h30m`."""
    microseconds = value // timedelta(microseconds=1)
    whole, rest = divmod(microseconds, 1_000_000)
    hours, minutes, seconds = whole // 3600, whole % 3600 // 60, whole % 60
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    if rest:
        parts.append(f"{Decimal(seconds * 1_000_000 + rest) / 1_000_000:f}s")
    elif seconds:
        parts.append(f"{seconds}s")
    return "".join(parts) or "0s"


def hours_in_words(hours: float) -> str:
    """A number of hours, estimated: two digits, whole from 10 on, and at least 0.0001."""
    return f"{max(hours, _LEAST_HOURS):.2g}" if hours < _WHOLE_HOURS else f"{hours:.0f}"


def parse_money(value: Any) -> Decimal:
    """Read an amount of money: a whole number, or a quoted decimal such as `"1.25"`.

    It rejects floats, as the CustomResourceDefinition does: 0.1 has no exact binary value.

    Raises:
        ValueError: the value is not an amount; the message says what to write.
    """
    if isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        raise ValueError(f'write the amount in quotes: "{value}"')
    if not _is_short(value):
        raise ValueError(AMOUNT_FORM)
    if isinstance(value, bool) or not re.fullmatch(MONEY_PATTERN, str(value)):
        raise ValueError('write an amount that is not negative, such as 20 or "1.25"')
    return Decimal(str(value))


def _is_short(value: Any) -> bool:
    """Whether a number has few enough digits; Python refuses to write integers of more than 4,300."""
    return len(value) <= _MOST_DIGITS if isinstance(value, str) else (
        not isinstance(value, int) or abs(value) < 10**_MOST_DIGITS)


class Quantity(str):
    """A Kubernetes resource quantity such as `500m`, `16Gi` or `4`; `.value` is its exact number."""

    @property
    def value(self) -> Decimal:
        """The exact number: bytes for memory, cores for CPU."""
        number, suffix = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", self).groups()  # type: ignore[union-attr]
        return Decimal(number) * _SUFFIXES[suffix]


def parse_quantity(value: Any) -> Quantity:
    """Read a Kubernetes quantity.

    Raises:
        ValueError: the value is not a quantity; the message says what to write.
    """
    if isinstance(value, bool | float) or not _is_short(value) or not re.fullmatch(QUANTITY_PATTERN, str(value)):
        raise ValueError("write a Kubernetes quantity, such as 4, 500m or 16Gi")
    return Quantity(value)


def _positive(value: Any) -> Any:
    number = value.value if isinstance(value, Quantity) else value
    if not number:
        raise ValueError("write a value above zero")
    return value


def _payable(amount: Decimal) -> Decimal:
    if amount > LARGEST_AMOUNT:
        raise ValueError(AMOUNT_FORM)
    return amount


def _int_or_string(pattern: str, minimum: int) -> WithJsonSchema:
    return WithJsonSchema({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}],
                           "pattern": pattern, "minimum": minimum})


Duration = Annotated[
    timedelta,
    PlainValidator(parse_duration),
    AfterValidator(_positive),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
"""A `timedelta` above zero, written as `90s`, `45m` or `1h30m`."""

Money = Annotated[
    Decimal,
    PlainValidator(parse_money),
    PlainSerializer(lambda amount: f"{amount:f}", return_type=str),
    _int_or_string(MONEY_PATTERN, 0),
]
"""An exact amount (`Decimal`) in the currency of the accelerator catalogue. Default: USD."""

Amount = Annotated[Money, AfterValidator(_payable)]
"""An amount that a user writes: at most `LARGEST_AMOUNT`, so that no sum loses digits."""

ResourceQuantity = Annotated[
    Quantity,
    PlainValidator(parse_quantity),
    AfterValidator(_positive),
    PlainSerializer(str, return_type=str),
    _int_or_string(QUANTITY_PATTERN, 1),
]
"""A Kubernetes resource quantity above zero."""
