"""The number of tokens that a model has positions for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
"""Names of the table of positions in GPT-2, OPT, GPT-J (a buffer) and other families."""


def room_for_answers(model: Any) -> int:
    """The most tokens of question and answer together; `sys.maxsize` where the model computes positions.

    A model with a table of positions raises an IndexError for a token beyond the table. A model that computes positions
    (RoPE, ALiBi) continues, with worse answers. Virtual tokens before a text take positions too.
    """
    virtual = 0
    if isinstance(model, PeftModel):
        virtual = getattr(model.active_peft_config, "num_virtual_tokens", None) or 0
        model = model.get_base_model()
    most = table_of_positions(model)
    return sys.maxsize if most is None else most - virtual


def table_of_positions(model: PreTrainedModel) -> int | None:
    """The size of a model's table of positions; None where it computes them. The model may be without storage."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if most and _looks_up(model, most) else None


def batch_of(lengths: Sequence[int], most_rows: int, room: int, new_tokens: int) -> tuple[int, int]:
    """The number of first prompts to answer together, and the longest answer of each in tokens.

    The longest answer to a prompt depends only on the prompt's length, so a batch has prompts with the same limit.

    Args:
        lengths: the lengths of the prompts in tokens, ascending.
        most_rows: the most prompts in a batch.
        room: the most tokens of prompt and answer together, by `room_for_answers`.
        new_tokens: the longest answer where positions suffice.
    """
    most = [max(1, min(new_tokens, room - length)) for length in lengths[:most_rows]]
    return most.count(most[0]), most[0]


def _looks_up(model: torch.nn.Module, most: int) -> bool:
    """Whether the model has a table of so many positions; OPT's has two more. Tables for image patches do not count."""
    sizes = [(name, module.num_embeddings) for name, module in model.named_modules()
             if isinstance(module, torch.nn.Embedding)]
    sizes += [(name, len(buffer)) for name, buffer in model.named_buffers() if buffer.dim()]
    return any(name.rpartition(".")[2] in _TABLES and most <= size <= most + 2 for name, size in sizes)
