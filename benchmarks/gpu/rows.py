"""Rows of random tokens, and the same rows in the form that the peers take."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING

from benchmarks.gpu.settings import SEED, Settings

if TYPE_CHECKING:
    from finetune_trainer.data.rows import TokenRow

_FIRST_TOKEN = 300
"""Smaller ids are bytes and special tokens."""

_SHORTEST = 24


def random_rows(settings: Settings, count: int, shorter: int = 1) -> tuple[TokenRow, ...]:
    """Rows whose lengths are log-normal, cut at the longest, with answers as long as a judgment's.

    Args:
        settings: the sizes: longest row, mean length, vocabulary.
        count: how many.
        shorter: divides the longest and the mean length.
    """
    from finetune_trainer.data.rows import TokenRow

    chance = random.Random(SEED)
    raw = [chance.lognormvariate(0.0, 0.55) for _ in range(count)]
    lengths = _scaled(raw, settings.max_length // shorter, settings.mean_length // shorter)
    vocabulary, made = settings.large.vocabulary, []
    for length in lengths:
        answer = min(chance.randint(16, 48), length // 2)
        ids = [chance.randrange(_FIRST_TOKEN, vocabulary) for _ in range(length)]
        made.append(TokenRow(tuple(ids[:-answer]), tuple(ids[-answer:])))
    return tuple(made)


def _scaled(raw: list[float], longest: int, mean: float) -> list[int]:
    """Lengths in these proportions, cut at `longest`, whose mean is `mean`: found by halving."""
    low, high = 1.0, 20.0 * mean
    lengths = [longest] * len(raw)
    for _ in range(60):
        middle = (low + high) / 2
        lengths = [max(_SHORTEST, min(longest, round(middle * value))) for value in raw]
        low, high = (middle, high) if statistics.fmean(lengths) < mean else (low, middle)
    return lengths


def in_step_order(rows: tuple[TokenRow, ...], settings: Settings, steps: int) -> list[TokenRow]:
    """The rows in the order in which our trainer takes them: `settings.batch` a step."""
    from finetune_trainer.data.batches.steps import step_rows

    return [rows[index] for step in step_rows(len(rows), settings.batch, SEED, steps) for index in step]


def columns(rows: list[TokenRow]) -> dict[str, list[list[int]]]:
    """Rows as columns of a data set: ids, attention mask, and labels on the answers alone."""
    return {"input_ids": [list(row.prompt + row.answer) for row in rows],
            "attention_mask": [[1] * len(row) for row in rows],
            "labels": [[-100] * len(row.prompt) + list(row.answer) for row in rows]}
