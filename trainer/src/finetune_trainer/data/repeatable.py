"""Random choices of templates that are the same at every attempt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


def has_choices(template: str) -> bool:
    """Whether a Jinja template may choose at random: by the filter `random` or the function `lipsum`."""
    return "random" in template or "lipsum" in template


@contextmanager
def repeatable_choices(seed: str) -> Iterator[None]:
    """Make `|random` and `lipsum` choose the same at every attempt: Jinja uses Python's global random generator.

    Args:
        seed: decides the choices, such as the text of a question.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
