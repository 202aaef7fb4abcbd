"""A plug-in's reward for a model that knows nothing: its responses differ in worth, so PPO has something to learn."""

from collections.abc import Mapping
from typing import Any


def by_letters(response: str, right: str, row: Mapping[str, Any]) -> float:
    """A tenth for each of the sum of the response's code points, modulo 11."""
    return sum(map(ord, response)) % 11 / 10
