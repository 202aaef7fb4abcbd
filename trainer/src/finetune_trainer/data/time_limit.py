"""A limit on how long a computation may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class TookTooLong(Exception):
    """A computation was ended at its limit."""


def within(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns, if it does so in time; a regular expression that goes astray is ended too.

    A signal ends it, which only the main thread can get: in any other there is no limit. Limits don't nest.

    Raises:
        TookTooLong: it took longer; what it was doing is left undone.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)

    def end(*_: object) -> None:
        raise TookTooLong

    handler = signal.signal(signal.SIGALRM, end)
    try:
        try:
            # Again and again: an exception that comes while an object is being destroyed is lost.
            timer = signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 4)
            return function(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        # Somebody else's timer goes on; and ours is over, also where it rang once more on the way here.
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
