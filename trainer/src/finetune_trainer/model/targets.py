"""Which linear layers get an adapter."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from finetune_trainer.errors import BadConfig


def linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all linear layers but the head, sorted: `q_proj`, `up_proj`, …"""
    head = model.get_output_embeddings()
    names = {name.rpartition(".")[2] for name, module in model.named_modules()
             if isinstance(module, torch.nn.Linear) and module is not head}
    return sorted(names)


def target_modules(model: PreTrainedModel, wanted: Sequence[str] | None, field: str) -> list[str]:
    """The layers to adapt: all linear ones but the head, or the ones that the job names.

    Raises:
        BadConfig: a name that no linear layer ends with; the message lists those that exist.
    """
    known = linear_names(model)
    if wanted is None:
        return known
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            close = difflib.get_close_matches(target, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BadConfig(f"{field}.targetModules: no linear layer is named {target}{hint} The names that exist: "
                            f"{', '.join(known)}")
    head = model.get_output_embeddings()
    for target in wanted:
        if any(module is head and (name == target or name.endswith(f".{target}"))
               for name, module in model.named_modules()):
            raise BadConfig(f"{field}.targetModules: {target} is the model's head, which an adapter can't train; the "
                            f"names that exist beside it: {', '.join(known)}")
    return list(wanted)
