"""Limits of single fields that a pattern cannot express, or not with a helpful message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from finetune_api.rule import Rule, Section, look_up
from finetune_api.values.quantities import (
    AMOUNT_FORM,
    DURATION_FORM,
    DURATION_PATTERN,
    LARGEST_AMOUNT,
    LONGEST_DURATION,
    MONEY_PATTERN,
    parse_duration,
    parse_money,
)
from finetune_api.values.uris import ADDRESS_FORM, ADDRESS_PATTERN, is_address


def _holds(field: str, judge: Callable[[Any], bool]) -> Callable[[Section], bool]:
    def holds(section: Section) -> bool:
        value = look_up(section, field)
        return value is None or judge(value)

    return holds


def _where_present(field: str, cel: str) -> str:
    """CEL that also holds if the field, or a section above it, is missing."""
    parts = field.split(".")
    absent = " || ".join(f"!has(self.{'.'.join(parts[:count])})" for count in range(1, len(parts) + 1))
    return f"{absent} || ({cel.format(field=f'self.{field}')})"


def _readable_amount(value: Any) -> bool:
    """Whether an amount is small enough. A value that is no amount has an error of its own."""
    if isinstance(value, bool | float) or not re.fullmatch(MONEY_PATTERN, str(value)):
        return True
    try:
        return parse_money(value) <= LARGEST_AMOUNT
    except ValueError:
        return False


def _short_enough(value: Any) -> bool:
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        return True
    try:
        return parse_duration(value) <= LONGEST_DURATION
    except ValueError:
        return False


def _amount(field: str) -> Rule:
    return Rule(
        "spec.budget", field, _holds(field, _readable_amount),
        _where_present(field, "quantity(string({field})).compareTo(quantity('" + str(LARGEST_AMOUNT) + "')) <= 0"),
        AMOUNT_FORM, accepts={field: str(LARGEST_AMOUNT)}, refuses={field: "1" + "0" * 30},
    )


def _address(section: str, field: str, accepts: Section, refuses: Section) -> Rule:
    return Rule(
        section, field, _holds(field, is_address),
        _where_present(field, "{field}.matches(r'" + ADDRESS_PATTERN.replace("{", "{{").replace("}", "}}") + "')"),
        ADDRESS_FORM, accepts=accepts, refuses=refuses,
    )


RULES: tuple[Rule, ...] = (
    _amount("maxCost"),
    _amount("hourlyRate"),
    Rule(
        "spec.budget", "maxDuration", _holds("maxDuration", _short_enough),
        _where_present("maxDuration", "duration({field}) <= duration('87600h')"),
        DURATION_FORM, accepts={"maxDuration": "87600h"}, refuses={"maxDuration": "90000h"},
    ),
    _address("spec.output", "s3.endpointUrl", {"s3": {"endpointUrl": "http://[fd00::1]:9000"}},
             {"s3": {"endpointUrl": "https://[::1"}}),
    _address("spec.evaluation", "reference.url",
             {"reference": {"url": "https://host:65535/v1", "model": "gpt-4"}},
             {"reference": {"url": "http://host:65536/v1", "model": "gpt-4"}}),
)
