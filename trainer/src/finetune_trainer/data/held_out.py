"""Which rows are held out: by chance, but never a question of which the training rows have another answer."""

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
    """Split rows by chance, a share of their distinct questions with all of their rows; both parts keep their order.

    Args:
        rows: all rows.
        fraction: share of the questions to hold out, at least one of them and never all.
        seed: decides which.
        question: what a row asks.

    Raises:
        BadData: there are no two distinct questions.
    """
    if len(rows) < 2:
        raise BadData(f"the data set has {len(rows)} rows: at least 2 are needed, one to learn from and one held out")
    asked = [question(row) for row in rows]
    questions = list(dict.fromkeys(asked))
    if len(questions) < 2:
        raise BadData(f"the data set's {len(rows)} rows are all the same: at least 2 different ones are needed, one to "
                      "learn from and one held out")
    count = min(len(questions) - 1, max(1, round(len(questions) * fraction)))
    chosen = {questions[index] for index in random.Random(seed).sample(range(len(questions)), count)}
    return ([row for row, key in zip(rows, asked, strict=True) if key not in chosen],
            [row for row, key in zip(rows, asked, strict=True) if key in chosen])


def divide(examples: Sequence[Example], fraction: float, seed: int
           ) -> tuple[list[Example], list[Example], list[Finding]]:
    """Examples to learn from and examples held out by distinct question; where all ask the same, by distinct answer.

    Raises:
        BadData: there are no two distinct ones.
    """
    asked = [example.asked for example in examples]
    if len(examples) < 2 or len(set(asked)) > 1:
        return *hold_out(examples, fraction, seed, lambda example: example.asked), []
    told = Finding(Severity.WARNING, examples[0].place, "all rows ask the same question: they are held out by distinct "
                                                        "answer")
    return *hold_out(examples, fraction, seed, lambda example: example.answer), [told]


def sample(examples: Sequence[Example], most: int | None, seed: int) -> list[Example]:
    """At most so many examples by chance, in their order; each question once before any a second time."""
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
    """Training rows without those whose question is held out too: they would make the evaluation too good."""
    asked = {example.asked: example.place for example in held_out}
    kept, findings = [], []
    for example in train:
        twin = asked.get(example.asked)
        if twin is None:
            kept.append(example)
        else:
            findings.append(Finding(Severity.WARNING, example.place, f"asks the same as {twin}, which is held out: "
                                                                     "left out of training"))
    return kept, findings
