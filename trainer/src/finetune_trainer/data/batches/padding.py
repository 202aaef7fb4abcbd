"""Rows of token ids as one tensor: the only place where rows are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

IGNORED = -100
"""The label of a token that the loss leaves out; torch's `cross_entropy` ignores it by default."""


def padded(rows: Sequence[Sequence[int]], fill: int, side: Literal["left", "right"]) -> torch.Tensor:
    """Rows as an int64 tensor (rows, width), where width is the length of the longest row.

    Args:
        rows: numbers of each row.
        fill: the number that fills a shorter row.
        side: where the fill stands.
    """
    width = max(map(len, rows))
    tensor = torch.full((len(rows), width), fill, dtype=torch.int64)
    for number, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        tensor[number, start:start + len(row)] = torch.tensor(row, dtype=torch.int64)
    return tensor


def left_padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of rows that end together, both (rows, width) of int64.

    The mask is 1 for a token and 0 for padding.
    """
    return padded(rows, pad_id, "left"), padded([[1] * len(row) for row in rows], 0, "left")


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids by an attention mask (rows, width): padding on the left counts no position."""
    return (mask.cumsum(1) - 1).clamp(min=0)
