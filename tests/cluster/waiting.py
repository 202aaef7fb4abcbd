"""Waiting for a condition, with a deadline: the one place of the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
"""Pauses grow, a fifth a time: what is waited for long is computed on the same cores as the question."""

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """The first true value of `condition`, asked again and again.

    Args:
        condition: returns something false, or raises AssertionError, while it does not hold yet.
        what: what is waited for, for the error.
        seconds: how long to wait.

    Raises:
        TimeoutError: it did not come to hold; says what was seen last.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            found = condition()
        except AssertionError as error:
            seen: object = error
        else:
            if found:
                return found
            seen = found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}; last seen: {seen!r}")
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_PAUSE_SECONDS)
