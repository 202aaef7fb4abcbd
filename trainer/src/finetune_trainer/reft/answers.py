"""Reading an answer out of a text, and comparing it with the right one. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.json_answers import NotJson, parse_json

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?:/\d+)?")
_DECORATION = re.compile(r"[,\s$€£%]")
_AROUND = "<> \t\r\n.,;:!?$€£%()[]{}\"'`*_"
_CHOICE = re.compile(r"\(?([A-Za-z])\)?(?:[).:].*)?", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """What a response is worth.

    Attributes:
        reward: 0 to 1.
        right: whether its answer is the right one.
        answer: the answer that was found in it; None where there is none.
    """

    reward: float
    right: bool
    answer: str | None = None


NO_ANSWER = Verdict(0.0, False)


def final_answer(text: str, trigger: str) -> str | None:
    """What follows the last trigger, up to the end of its line; None where there is no trigger or nothing after it."""
    _, found, rest = text.rpartition(trigger)
    if not found:
        return None
    lines = rest.strip().splitlines()
    return (lines[0].strip() or None) if lines else None


def number(text: str) -> float | None:
    """A text that is one number, with the signs of money, thousands and percent around it; None where it isn't.

    A fraction such as 3/4 is its quotient.
    """
    plain = _DECORATION.sub("", text.strip().strip("<>*_`'\"()[]")).rstrip(".")
    if not _NUMBER.fullmatch(plain):
        return None
    above, _, below = plain.partition("/")
    if below and not float(below):
        return None
    value = float(above) / (float(below) if below else 1.0)
    return value if math.isfinite(value) else None


def same_text(one: str, other: str) -> bool:
    """Whether two answers in words are the same: case, blanks and punctuation around them don't count.

    Where the right one is a single letter, as in multiple choice, `(B)`, `b.` and `B) 12` are it.
    """
    letter = one.strip(_AROUND)
    choice = _CHOICE.fullmatch(other.strip())
    if len(letter) == 1 and letter.isalpha() and choice:
        return choice.group(1).lower() == letter.lower()
    return " ".join(one.strip(_AROUND).split()).lower() == " ".join(other.strip(_AROUND).split()).lower()


def judge_answer(found: str | None, right: str, tolerance: float, partial: float) -> Verdict:
    """1 for the right answer, `partial` for a wrong one of the right type, else 0.

    A right answer that is a number wants a number within `tolerance`; any other wants a text.
    """
    if found is None:
        return NO_ANSWER
    wanted = number(right)
    if wanted is None:
        return Verdict(1.0, True, found) if same_text(right, found) else Verdict(partial, False, found)
    given = number(found)
    if given is None:
        return Verdict(0.0, False, found)
    close = abs(given - wanted) <= tolerance
    return Verdict(1.0 if close else partial, close, found)


def json_answer(text: str, trigger: str) -> Mapping[str, Any] | None:
    """The JSON object that a text is, or that follows its last trigger; None where there is none."""
    _, found, rest = text.rpartition(trigger)
    try:
        value = parse_json((rest if found else text).strip())
    except NotJson:
        return None
    return value if isinstance(value, Mapping) else None


def judge_json(found: Mapping[str, Any] | None, right: Mapping[str, Any], tolerance: float, partial: float) -> Verdict:
    """1 where all of the right answer's fields are right; else `partial` for an object, rising with their share.

    With a share s of the fields right the reward is partial + (1 − partial)·s; right means all of them.
    """
    if found is None:
        return NO_ANSWER
    shown = json.dumps(found, ensure_ascii=False)
    hits = sum(name in found and _same_value(found[name], value, tolerance) for name, value in right.items())
    share = hits / len(right)
    return Verdict(1.0 if share == 1 else partial + (1 - partial) * share, share == 1, shown)


def _same_value(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= tolerance
    return bool(one == other)
