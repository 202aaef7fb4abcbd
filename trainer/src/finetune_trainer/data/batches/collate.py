"""Lines of rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune_trainer.data.batches.steps import Line
from finetune_trainer.data.rows import TokenRow

IGNORED = -100
"""The label of a token that isn't trained."""


def collate(lines: Sequence[Line], rows: Sequence[TokenRow], pad_id: int) -> dict[str, torch.Tensor]:
    """One micro-batch: `input_ids`, `labels` and `position_ids`, each (lines, width) of int64.

    Positions start again at every row, which is how transformers keeps the rows of a line apart. Padding stands at the
    end, where causal attention hides it, and goes on counting, so that a line of one row needs no mask at all. Labels
    are the answers' ids, chosen by where the answer lies and never by an id: padding may well be the end token.
    """
    width = max(sum(len(rows[index]) for index in line) for line in lines)
    ids = torch.full((len(lines), width), pad_id, dtype=torch.int64)
    labels = torch.full((len(lines), width), IGNORED, dtype=torch.int64)
    positions = torch.zeros((len(lines), width), dtype=torch.int64)
    for number, line in enumerate(lines):
        start = 0
        last = 0
        for index in line:
            row = rows[index]
            answer = start + len(row.prompt)
            end = start + len(row)
            ids[number, start:end] = torch.tensor(row.prompt + row.answer)
            labels[number, answer:end] = torch.tensor(row.answer)
            positions[number, start:end] = torch.arange(len(row))
            start, last = end, len(row)
        positions[number, start:] = torch.arange(last, last + width - start)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}
