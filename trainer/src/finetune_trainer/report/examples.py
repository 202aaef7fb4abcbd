"""The first held-out questions with the answers of all models, and whether each answer is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from finetune_api.methods.reft import RewardType
from finetune_api.spec.evaluation import Metric

from finetune_trainer.evaluation.scores import parse, score
from finetune_trainer.report.facts import RunFacts

if TYPE_CHECKING:
    from finetune_trainer.evaluation.evaluate import SampleAnswer

BEFORE, AFTER, REFERENCE = "before", "after", "reference"
"""Titles of the answers."""


@dataclass(frozen=True)
class Answer:
    """One answer of a model.

    Attributes:
        title: the column of the model.
        text: the answer.
        right: whether the answer is right, as in the table.
    """

    title: str
    text: str
    right: bool


@dataclass(frozen=True)
class AnsweredExample:
    """A held-out question, the expected answer, and the answers of the models."""

    question: str
    expected: str
    answers: tuple[Answer, ...]


def answered_examples(facts: RunFacts) -> list[AnsweredExample]:
    """The first held-out questions with the answers before and after training, and of the reference model."""
    fields, before = _fields(facts), facts.before.examples if facts.before else ()
    found = []
    for index, after in enumerate(facts.after.examples):
        shown = [(BEFORE, before[index])] if index < len(before) else []
        found.append(AnsweredExample(after.question, after.expected, tuple(
            Answer(title, one.answer, _is_right(one.expected, one.answer, fields) if one.right is None else one.right)
            for title, one in [*shown, (AFTER, after), *_reference(facts, index, after)]
        )))
    return found


def _reference(facts: RunFacts, index: int, asked: SampleAnswer) -> list[tuple[str, SampleAnswer]]:
    """The reference model's answer, where it is judged by its text alone: no reward has judged it."""
    answer = facts.reference_answers.get(index)
    if answer is None or _has_other_reward(facts):
        return []
    return [(REFERENCE, replace(asked, answer=answer, right=None))]


def judged(facts: RunFacts) -> str:
    """What makes an answer count as right, in words."""
    return "it has the right answer" if _has_other_reward(facts) else _judged(_fields(facts))


def _has_other_reward(facts: RunFacts) -> bool:
    """Whether a reward says what is right, and not the fields that the report compares."""
    reft = facts.run.spec.method.reft
    return reft is not None and (reft.reward.type is not RewardType.FIELDS_MATCH or not _fields(facts))


def _fields(facts: RunFacts) -> tuple[str, ...]:
    """The fields that decide whether an answer is right; empty if the whole answer decides."""
    return tuple(facts.after.scores.get(Metric.FIELD_ACCURACY) or ())


def _judged(fields: Sequence[str]) -> str:
    if len(fields) == 1:
        return f"its field {fields[0]} is right"
    return f"all of these fields are right: {', '.join(fields)}" if fields else "it equals the expected answer"


def _is_right(expected: str, answer: str, fields: Sequence[str]) -> bool:
    if fields:
        values = [parse(text) for text in (expected, answer)]
        if not all(isinstance(value, Mapping) and set(fields) <= set(value) for value in values):
            return False
        expected, answer = (json.dumps({field: value[field] for field in fields}) for value in values)
    return bool(score([expected], [answer], [Metric.EXACT_MATCH])[Metric.EXACT_MATCH] == 1)
