"""Lines of rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from finetune_trainer.data.batches.padding import IGNORED, padded
from finetune_trainer.data.batches.steps import Line
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.model.attention_by_rows import row_edges


def collate(lines: Sequence[Line], rows: Sequence[TokenRow], pad_id: int, by_rows: bool = False) -> dict[str, Any]:
    """One micro-batch: `input_ids`, `labels` and `position_ids`, each (lines, width) of int64.

    Positions start again at every row: that is how transformers keeps the rows of a line apart. Padding stands at the
    end, where causal attention hides it. Its positions continue those of the last row, so a line of one row needs no
    mask. Labels are the answers' ids, chosen by where the answer lies and never by id, because the pad token can be the
    end token.

    Args:
        lines: the rows of each line.
        rows: the rows of the data set.
        pad_id: the id to pad with.
        by_rows: whether attention by rows keeps the rows apart: then there is one line, and the batch has its edges.
    """
    of_lines = [[rows[index] for index in line] for line in lines]
    width = max(sum(map(len, line)) for line in of_lines)
    ids = [[token for row in line for token in (*row.prompt, *row.answer)] for line in of_lines]
    labels = [list(chain.from_iterable([IGNORED] * len(row.prompt) + list(row.answer) for row in line))
              for line in of_lines]
    batch = {"input_ids": padded(ids, pad_id, "right"), "labels": padded(labels, IGNORED, "right"),
             "position_ids": torch.tensor([_positions(line, width) for line in of_lines], dtype=torch.int64)}
    if not by_rows:
        return batch
    (line,) = of_lines
    return {**batch, **row_edges([len(row) for row in line])}


def _positions(line: Sequence[TokenRow], width: int) -> list[int]:
    positions = [position for row in line for position in range(len(row))]
    last = len(line[-1])
    return [*positions, *range(last, last + width - len(positions))]
