"""Judging a response: finds the answer in its text and compares it with the right answer. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.answers.json_answers import NotJson, parse_json
from finetune_trainer.data.answers.json_values import same

# An integer, with or without digit groups: 1,234,567 or 12,34,567 with commas, 1 234 567 with spaces of any width.
_INTEGER = r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+|\d+)"
_NUMBER = re.compile(rf"(?:([-+\u2212])\s*[$€£]?|[$€£]\s*([-+\u2212]?))?\s*"
                     rf"((?:{_INTEGER}(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?:\s*/\s*({_INTEGER}))?\s*[%$€£]?")
_OPENING, _CLOSING = "<*_`'\"([{ \t\r\n", ">*_`'\")]} \t\r\n.,;:!?"
_BETWEEN_GROUPS = re.compile(r"[,\s]")
_AROUND = "<> \t\r\n.,;:!?$€£%()[]{}\"'`*_"
_CHOICE = re.compile(r"\(?([A-Za-z])\)?(?:[).:].*)?", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """What a response is worth.

    Attributes:
        reward: 0 to 1.
        right: whether its answer is the right one.
        answer: the answer found in the response; None if there is none.
    """

    reward: float
    right: bool
    answer: str | None = None


NO_ANSWER = Verdict(0.0, False)


def final_answer(text: str, trigger: str) -> str | None:
    """The text after the last trigger, up to the end of its line; None without a trigger or without text after it."""
    _, found, rest = text.rpartition(trigger)
    if not found:
        return None
    lines = rest.strip().splitlines()
    return (lines[0].strip() or None) if lines else None


def number(text: str) -> float | None:
    """A text that is one number, as people write it; None where it isn't.

    In this order, blanks between them: marks around it (`<`, `*`, `_`, quotes, brackets; behind it also `.,;:!?`); a
    sign and a sign of money, either first; digits, perhaps in groups (`1,234`, `12,34,567`, `1 234`), a point and
    more digits, an exponent; a divisor (`3/4` is its quotient); a sign of percent or money. Nothing else: `12 34`,
    `1,5`, `1 1/2` and `5 apples` are none.
    """
    found = _NUMBER.fullmatch(text.lstrip(_OPENING).rstrip(_CLOSING))
    if not found:
        return None
    one, other, above, below = found.groups()
    divisor = float(_BETWEEN_GROUPS.sub("", below)) if below else 1.0
    if not divisor:
        return None
    value = float(_BETWEEN_GROUPS.sub("", above)) / divisor
    if not math.isfinite(value):
        return None
    return value if (one or other or "+") == "+" else -value


def same_text(one: str, other: str) -> bool:
    """Whether two text answers are the same. Case, white space, and punctuation around them do not count.

    If the right answer is a single letter, as in multiple choice, then `(B)`, `b.` and `B) 12` all mean B.
    """
    letter = one.strip(_AROUND)
    choice = _CHOICE.fullmatch(other.strip())
    if len(letter) == 1 and letter.isalpha() and choice:
        return choice.group(1).lower() == letter.lower()
    return " ".join(one.strip(_AROUND).split()).lower() == " ".join(other.strip(_AROUND).split()).lower()


def judge_answer(found: str | None, right: str, tolerance: float, partial: float) -> Verdict:
    """The reward of an answer: 1 if it is right, `partial` if it is wrong but has the right type, else 0.

    If the right answer is a number, the answer must be a number within `tolerance`. Otherwise texts are compared.
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
    """The JSON object after the last trigger, or in the whole text if it has no trigger; None if there is none."""
    _, found, rest = text.rpartition(trigger)
    return json_object(rest if found else text)


def json_object(text: str) -> Mapping[str, Any] | None:
    """The JSON object that a text is; None if it is none."""
    try:
        value = parse_json(text.strip())
    except NotJson:
        return None
    return value if isinstance(value, Mapping) else None


def judge_json(found: Mapping[str, Any] | None, right: Mapping[str, Any], tolerance: float, partial: float) -> Verdict:
    """The reward of a JSON answer: 1 if all fields of the right answer are right; 0 without a JSON object.

    If a share s of the fields is right, the reward is partial + (1 − partial)·s. The answer is right if s is 1.
    """
    if found is None:
        return NO_ANSWER
    shown = json.dumps(found, ensure_ascii=False)
    hits = sum(name in found and _same_value(found[name], value, tolerance) for name, value in right.items())
    share = hits / len(right)
    return Verdict(1.0 if share == 1 else partial + (1 - partial) * share, share == 1, shown)


def judge_fields(found: Mapping[str, Any] | None, right: Mapping[str, Any], partial: float) -> Verdict:
    """The reward of a JSON answer by some of its fields: 1 if it has the values of `right`, `partial` if it has these
    fields with other values, else 0. Other fields of the answer do not count.

    A share of the fields has no credit: where most labels of most rows are the same, an answer that is always the same
    would earn nearly as much as a right one.
    """
    if found is None:
        return NO_ANSWER
    shown = json.dumps({name: found[name] for name in right if name in found}, ensure_ascii=False)
    if not set(right) <= set(found):
        return Verdict(0.0, False, shown)
    is_right = all(same(found[name], value) for name, value in right.items())
    return Verdict(1.0 if is_right else partial, is_right, shown)


def _same_value(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= tolerance
    return bool(one == other)
