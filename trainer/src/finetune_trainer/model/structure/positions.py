"""How many tokens a model has positions for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
"""What the families call the table that a position is looked up in: GPT-2, OPT, GPT-J (a buffer), and others."""


def room_for_answers(model: Any) -> int:
    """Most tokens of a text, question and answer together; without end where positions are computed.

    A model that looks its positions up in a table has no more than that: a token beyond it ends in an IndexError. Those
    that compute them (RoPE, ALiBi) go on, if badly. Virtual tokens before a text have positions, too.
    """
    virtual = 0
    if isinstance(model, PeftModel):
        virtual = getattr(model.active_peft_config, "num_virtual_tokens", None) or 0
        model = model.get_base_model()
    most = table_of_positions(model)
    return sys.maxsize if most is None else most - virtual


def table_of_positions(model: PreTrainedModel) -> int | None:
    """How many positions a model, which may be without storage, has in its table; None where it computes them."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if most and _looks_up(model, most) else None


def batch_of(lengths: Sequence[int], most_rows: int, room: int, new_tokens: int) -> tuple[int, int]:
    """How many of the first prompts are answered together, and in how many tokens each at most.

    What a prompt may be answered in hangs on its own length alone, so only prompts with as much room share a batch.

    Args:
        lengths: of the prompts in tokens, ascending.
        most_rows: most prompts at once.
        room: `room_for_answers`.
        new_tokens: longest answer, where there is room.
    """
    most = [max(1, min(new_tokens, room - length)) for length in lengths[:most_rows]]
    return most.count(most[0]), most[0]


def _looks_up(model: torch.nn.Module, most: int) -> bool:
    """Whether there is a table of so many positions; OPT's has two more. That of an image's patches has others."""
    sizes = [(name, module.num_embeddings) for name, module in model.named_modules()
             if isinstance(module, torch.nn.Embedding)]
    sizes += [(name, len(buffer)) for name, buffer in model.named_buffers() if buffer.dim()]
    return any(name.rpartition(".")[2] in _TABLES and most <= size <= most + 2 for name, size in sizes)
