"""The rows that every arm of `sft_throughput` trains on, and how much padding a layout of them has."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.data.batches.steps import Layout
    from finetune_trainer.data.rows import TokenRow

_LONGEST = 3.5
_ANSWER = (16, 48)


@dataclass(frozen=True)
class Workload:
    """What every arm of one comparison has to do.

    Attributes:
        model: folder of the model in safetensors, with its tokenizer.
        method: `qlora` or `lora`.
        mix: `equal` or `wide`.
        mean_length: mean tokens of a row, question and answer together.
        batch: rows per optimizer step.
        steps: measured steps; one more, the first, is left out.
        seed: of lengths, token ids, row order and adapter.
    """

    model: Path
    method: str
    mix: str
    mean_length: int
    batch: int
    steps: int
    seed: int


def row_lengths(mix: str, count: int, mean_length: int, seed: int) -> list[int]:
    """Tokens of each row: all the same, or log-normal with the longest 3.5 times the mean."""
    if mix == "equal":
        return [mean_length] * count
    normal = [NormalDist().inv_cdf((number + 0.5) / count) for number in range(count)]
    low, high = 0.0, 3.0
    for _ in range(50):
        sigma = (low + high) / 2
        curve = [math.exp(sigma * value) for value in normal]
        low, high = (sigma, high) if curve[-1] / mean(curve) < _LONGEST else (low, sigma)
    lengths = [max(4, round(value * mean_length / mean(curve))) for value in curve]
    random.Random(seed).shuffle(lengths)
    return lengths


def make_rows(work: Workload, vocabulary: int) -> tuple[TokenRow, ...]:
    """Rows of random tokens in the order in which a run takes them; an answer has 16 to 48 tokens, at most half a row.

    As many as the steps need, so that a run is one epoch.
    """
    from finetune_trainer.data.batches.steps import step_rows
    from finetune_trainer.data.rows import TokenRow

    chance = random.Random(work.seed)
    count = work.batch * (work.steps + 1)
    rows = []
    for length in row_lengths(work.mix, count, work.mean_length, work.seed):
        answer = min(chance.randint(*_ANSWER), length // 2)
        ids = [chance.randrange(3, vocabulary) for _ in range(length)]
        rows.append(TokenRow(tuple(ids[:-answer]), tuple(ids[-answer:])))
    # The project shuffles by itself: undo that here, so that rows 1 to n are those of step 1 in every arm.
    order = [index for step in step_rows(count, work.batch, work.seed, work.steps + 1) for index in step]
    placed: list[TokenRow] = list(rows)
    for position, index in enumerate(order):
        placed[index] = rows[position]
    return tuple(placed)


def in_step_order(rows: Sequence[TokenRow], work: Workload) -> list[TokenRow]:
    """The rows as the project's steps take them."""
    from finetune_trainer.data.batches.steps import step_rows

    return [rows[index] for step in step_rows(len(rows), work.batch, work.seed, work.steps + 1) for index in step]


def padding_to_longest(rows: Sequence[TokenRow], work: Workload) -> float:
    """Share of padding where every batch is as wide as its longest row; the first batch is left out."""
    lengths = [len(row) for row in in_step_order(rows, work)[work.batch:]]
    batches = [lengths[start:start + work.batch] for start in range(0, len(lengths), work.batch)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def padding_of_layout(rows: Sequence[TokenRow], work: Workload, layout: Layout) -> float:
    """Share of padding where the project lays the rows out; the first step is left out."""
    from finetune_trainer.data.batches.steps import lay_out, step_rows

    lengths = [len(row) for row in rows]
    tokens = slots = 0
    for indices in list(step_rows(len(rows), work.batch, work.seed, work.steps + 1))[1:]:
        tokens += sum(lengths[index] for index in indices)
        for lines in lay_out(indices, lengths, layout):
            slots += len(lines) * max(sum(lengths[index] for index in line) for line in lines)
    return 1 - tokens / slots
