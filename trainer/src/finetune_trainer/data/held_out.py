"""Which rows are held out for evaluation: a random sample of the questions, each with all of its rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from finetune_trainer.data.rows import Example, Finding, Severity
from finetune_trainer.errors import BadData

T = TypeVar("T")


def hold_out(rows: Sequence[T], fraction: float, seed: int, question: Callable[[T], Hashable] = lambda row: row
             ) -> tuple[list[T], list[T]]:
    """Split rows at random, by distinct question: no question is in both parts. Both parts keep their order.

    Args:
        rows: all rows.
        fraction: the share of the questions to hold out; at least one question, and not all.
        seed: decides which questions.
        question: gives the question of a row.

    Raises:
        BadData: there are fewer than two distinct questions.
    """
    if len(rows) < 2:
        raise BadData(f"spec.dataset: the data set has {len(rows)} rows; at least 2 are needed, one to train on and "
                      "one to evaluate on")
    asked = [question(row) for row in rows]
    questions = list(dict.fromkeys(asked))
    if len(questions) < 2:
        raise BadData(f"spec.dataset: all {len(rows)} rows of the data set are the same; at least 2 different rows are "
                      "needed, one to train on and one to evaluate on")
    count = min(len(questions) - 1, max(1, round(len(questions) * fraction)))
    chosen = {questions[index] for index in random.Random(seed).sample(range(len(questions)), count)}
    return ([row for row, key in zip(rows, asked, strict=True) if key not in chosen],
            [row for row, key in zip(rows, asked, strict=True) if key in chosen])


def divide(examples: Sequence[Example], fraction: float, seed: int
           ) -> tuple[list[Example], list[Example], list[Finding]]:
    """Training examples and held-out examples, split by distinct question, or by distinct answer if all ask the same.

    Raises:
        BadData: there are fewer than two distinct examples.
    """
    asked = [example.asked for example in examples]
    if len(examples) < 2 or len(set(asked)) > 1:
        return *hold_out(examples, fraction, seed, lambda example: example.asked), []
    warning = Finding(Severity.WARNING, examples[0].location, "all rows ask the same question, so rows are held out by "
                                                        "distinct answer")
    return *hold_out(examples, fraction, seed, lambda example: example.answer), [warning]


def sample(examples: Sequence[Example], most: int | None, seed: int) -> list[Example]:
    """A random sample of at most `most` examples, in their order. Each question comes once before any comes twice."""
    if most is None or len(examples) <= most:
        return list(examples)
    order = list(range(len(examples)))
    random.Random(f"{seed} evaluation").shuffle(order)
    times: Counter[str] = Counter()
    turns: list[Any] = []
    for position, index in enumerate(order):
        asked = examples[index].asked
        turns.append((times[asked], position, index))
        times[asked] += 1
    return [examples[index] for index in sorted(index for _, _, index in sorted(turns)[:most])]


def leave_out_duplicates(train: Sequence[Example], held_out: Sequence[Example]
                         ) -> tuple[list[Example], list[Finding]]:
    """Training rows without those whose question is held out: they would make the scores too good."""
    asked = {example.asked: example.location for example in held_out}
    remaining, findings = [], []
    for example in train:
        twin = asked.get(example.asked)
        if twin is None:
            remaining.append(example)
        else:
            findings.append(Finding(Severity.WARNING, example.location, f"it asks the same question as {twin}, which "
                                                                     "is held out, so it is left out of training"))
    return remaining, findings
