"""The layers that adapters target."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.structure.layers import decoder_prefix

_OF_STATES = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}
_BYPASSED = {"out_proj", "conv1d"}
"""Layers of these families whose kernels read the weights directly: an adapter would have no effect (PEFT 0.21)."""

_IA3_TARGETS = ("k_proj", "v_proj", "down_proj")


def linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of the text decoder's linear layers without the head, sorted: `q_proj`, …"""
    head = model.get_output_embeddings()
    return sorted({name.rpartition(".")[2] for name, module in _linear(model).items() if module is not head})


def _linear(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Linear layers by their full names, with GPT-2's Conv1D, whose weights are transposed.

    Of a multimodal model only those of its text decoder: text does not pass through the others.
    """
    prefix, head = decoder_prefix(model), model.get_output_embeddings()
    bypassed = _BYPASSED if model.config.get_text_config().model_type in _OF_STATES else set()
    return {name: module for name, module in model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and name.rpartition(".")[2] not in bypassed
            and (name.startswith(prefix) or module is head)}


def target_modules(model: PreTrainedModel, wanted: Sequence[str] | None, field: str) -> list[str]:
    """The layers to adapt: all linear layers except the head, or the layers that the job names.

    Returns:
        The last parts of their names; for a multimodal model full names, since its other parts have the same ones.

    Raises:
        BadConfig: no linear layer has such a name; the message lists the names that exist.
    """
    known, layers = linear_names(model), _linear(model)
    head = model.get_output_embeddings()
    if not known:
        raise BadConfig(f"{field}: {type(model).__name__} has no linear layers except its head, so it can't have an "
                        "adapter; write spec.method.type: Full or Partial")
    for target in wanted or ():
        found = [layers[name] for name in layers if _is(name, target)]
        if not found:
            close = difflib.get_close_matches(target, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise BadConfig(f"{field}.targetModules: no linear layer is named {target}{hint} The names that exist: "
                            f"{', '.join(known)}")
        if any(module is head for module in found):
            raise BadConfig(f"{field}.targetModules: {target} is the model's head, which an adapter can't train; the "
                            f"other names that exist: {', '.join(known)}")
    chosen = list(wanted) if wanted is not None else known
    if not decoder_prefix(model):
        return chosen
    return [name for name, module in layers.items() if module is not head and any(_is(name, one) for one in chosen)]


def ia3_targets_by_name(model: PreTrainedModel) -> list[str] | None:
    """The layers that IA3 scales by default, found by name: keys, values and the last layer of the feed-forward part.

    Returns:
        `k_proj`, `v_proj` and `down_proj`, as PEFT takes them for Llama; None where one of the three does not exist.
    """
    known = linear_names(model)
    return list(_IA3_TARGETS) if all(name in known for name in _IA3_TARGETS) else None


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
