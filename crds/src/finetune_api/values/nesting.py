"""Plain data of limited depth. Other programs cannot decode or copy data that is nested too deeply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: Any, deepest: int) -> Iterator[Any]:
    """Every key, and every value that is neither an object nor a list, without recursion.

    Args:
        value: objects, lists, texts, numbers.
        deepest: largest number of levels of objects and lists.

    Raises:
        ValueError: it has more levels.
    """
    left = [(value, 1)]
    while left:
        one, depth = left.pop()
        if not isinstance(one, Mapping | list | tuple):
            yield one
            continue
        if depth > deepest:
            raise ValueError(f"nested deeper than {deepest} levels; write a flatter value")
        below = [*one, *one.values()] if isinstance(one, Mapping) else one
        left += ((item, depth + 1) for item in below)
