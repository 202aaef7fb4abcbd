"""Bottleneck adapters: a small network with a residual behind attention and feed-forward of every layer.

Houlsby et al., 2019, "Parameter-Efficient Transfer Learning for NLP" (arXiv:1902.00751). PEFT has none, so the
published folder is our own: `bottleneck.safetensors` holds their weights under their names in the model,
`bottleneck.json` their width and the base model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.structure.layers import decoder_layers

WEIGHTS = "bottleneck.safetensors"
DESCRIPTION = "bottleneck.json"
NAME = "bottleneck"

_ATTENTION = ("self_attn", "self_attention", "attn", "attention")
_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


class Bottleneck(torch.nn.Module):
    """x + up(gelu(down(x))); `up` begins at zero, so that nothing changes at first.

    Its weights are float32; what comes in and goes out is (…, hidden) in the model's type.
    """

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down = torch.nn.Linear(hidden, size)
        self.up = torch.nn.Linear(size, hidden)
        torch.nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zero)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The states with what was learnt added."""
        small = torch.nn.functional.gelu(self.down(states.to(self.down.weight.dtype)))
        return states + self.up(small).to(states.dtype)


def add_bottlenecks(model: PreTrainedModel, size: int) -> None:
    """Put fresh bottlenecks into a model; its own weights and their names stay as they are.

    Args:
        model: any that transformers loads, quantized or not.
        size: the width of each.

    Raises:
        BadConfig: no attention or feed-forward is known by name in its layers.
    """
    hidden = model.config.get_text_config().hidden_size
    for layer in decoder_layers(model)[1]:
        device = next(layer.parameters()).device
        for names in (_ATTENTION, _FEED_FORWARD):
            block = next((child for name, child in layer.named_children() if name in names), None)
            if block is None:
                there = ", ".join(name for name, _ in layer.named_children())
                raise BadConfig(f"spec.method.additive: no bottleneck can be put into {type(model).__name__}: of "
                                f"{', '.join(names)} its layers have none, but {there}")
            block.add_module(NAME, Bottleneck(hidden, size).to(device))
            block.register_forward_hook(_pass_through)
    # What transformers asks, before it trains a quantized model, for something beside the quantized weights.
    model._hf_peft_config_loaded = True


def _pass_through(block: torch.nn.Module, arguments: Any, output: Any) -> Any:
    adapter = block.get_submodule(NAME)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def save_bottlenecks(model: PreTrainedModel, size: int, folder: Path, base_model: str, revision: str | None) -> None:
    """Write a model's bottlenecks, and what they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in _weights(model).items()}, folder / WEIGHTS,
              metadata={"format": "pt"})
    description = {"baseModel": base_model, "revision": revision, "bottleneckSize": size}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_bottleneck(model: PreTrainedModel, folder: str | Path) -> None:
    """Put published bottlenecks into a loaded base model, in place.

    Args:
        model: the base model, stored in any type.
        folder: the published folder.

    Raises:
        ValueError: the weights don't fit the model.
    """
    size = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))["bottleneckSize"]
    add_bottlenecks(model, size)
    published, here = load_file(Path(folder) / WEIGHTS), _weights(model)
    if {name: tensor.shape for name, tensor in published.items()} != {name: t.shape for name, t in here.items()}:
        raise ValueError(f"{folder}: its weights don't fit the model: is that the base model that {DESCRIPTION} names?")
    for name, tensor in here.items():
        tensor.copy_(published[name])


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if f".{NAME}." in name}
