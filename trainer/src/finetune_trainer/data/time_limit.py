"""A time limit for a function call."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class TookTooLong(Exception):
    """A function was stopped at its time limit."""


def within(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function and stop it after so many seconds, even within a regular expression.

    A signal stops it, and only the main thread receives signals: in other threads there is no limit. Limits can't be
    nested.

    Raises:
        TookTooLong: the function took longer, and was stopped in the middle of its work.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)

    def end(*_: object) -> None:
        raise TookTooLong

    handler = signal.signal(signal.SIGALRM, end)
    try:
        try:
            # Repeated, because an exception that is raised while an object is being destroyed is lost.
            timer = signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 4)
            return function(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        # Restore the timer that was there before; ours may have fired once more on the way here.
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
