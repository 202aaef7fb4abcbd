"""Plug-ins that reward responses: what the folder plugins/ says is installed. That of whole runs comes first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).with_name("plugins")
"""On a process's path, it makes the package there one that is installed."""


def by_letters(response: str, right: str, row: Mapping[str, Any]) -> float:
    """A tenth for each of the sum of the response's code points, modulo 11: responses of a model that knows nothing
    differ in worth, so PPO has something to learn.
    """
    return sum(map(ord, response)) % 11 / 10


def with_unit(response: str, right: str, row: Mapping[str, Any]) -> float:
    """1 for the right answer with the row's unit."""
    return 1.0 if response == right + row["unit"] else 0.25


def not_a_number(response: str, right: str, row: Mapping[str, Any]) -> float:
    """No reward."""
    return float("nan")


def too_much(response: str, right: str, row: Mapping[str, Any]) -> float:
    """More than there is."""
    return 7


def truth(response: str, right: str, row: Mapping[str, Any]) -> bool:
    """A truth value."""
    return True


def out_of_order(response: str, right: str, row: Mapping[str, Any]) -> float:
    """A failure."""
    raise RuntimeError("out of order")
