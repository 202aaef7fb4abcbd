"""Finding a failure class by its reason or by the trainer's exit code."""

from __future__ import annotations

import re

from finetune_api.failures.failure_class import FailureClass
from finetune_api.failures.failure_classes import FAILURE_CLASSES

_BY_REASON = {one.reason: one for one in FAILURE_CLASSES}
_BY_EXIT_CODE = {one.exit_code: one for one in FAILURE_CLASSES if one.exit_code}


def failure_class(reason: str) -> FailureClass | None:
    """The failure class of a reason; None for a reason that is no failure, or of another release."""
    return _BY_REASON.get(reason)


def failure_class_of_exit_code(code: int) -> FailureClass | None:
    """The failure class that the trainer ends with this exit code for; None for 0 and for codes of others."""
    return _BY_EXIT_CODE.get(code)


def exit_code_summary() -> str:
    """What each exit code means in a few words: `64 bad config; 65 bad data; …`."""
    words = {one.exit_code: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", one.reason).lower() for one in _BY_EXIT_CODE.values()}
    return "; ".join(f"{code} {said}" for code, said in sorted(words.items()))
