"""Bottleneck adapters: a small residual network after attention and after feed-forward in every layer.

Houlsby et al., 2019, "Parameter-Efficient Transfer Learning for NLP" (arXiv:1902.00751). PEFT has none, so
the published folder has a format of this project: `bottleneck.safetensors` holds the weights under their names in the
model, `bottleneck.json` holds the width and the base model.
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
    """x + up(gelu(down(x))). `up` starts at zero, so at first the model does not change.

    The weights are float32. Input and output are (…, hidden) in the data type of the model.
    """

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down = torch.nn.Linear(hidden, size)
        self.up = torch.nn.Linear(size, hidden)
        torch.nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zero)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The hidden states plus the output of the bottleneck, (…, hidden)."""
        small = torch.nn.functional.gelu(self.down(states.to(self.down.weight.dtype)))
        return states + self.up(small).to(states.dtype)


def add_bottlenecks(model: PreTrainedModel, size: int) -> None:
    """Add new bottlenecks to a model. The model's own weights and their names do not change.

    Args:
        model: any model that transformers loads, quantized or not.
        size: the width of each bottleneck.

    Raises:
        BadConfig: its layers have no attention or feed-forward block with a known name.
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
    # transformers trains a quantized model only if this flag says that it has other weights to train.
    model._hf_peft_config_loaded = True


def _pass_through(block: torch.nn.Module, arguments: Any, output: Any) -> Any:
    adapter = block.get_submodule(NAME)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def save_bottlenecks(model: PreTrainedModel, size: int, folder: Path, base_model: str, revision: str | None) -> None:
    """Write the bottlenecks of a model, and the description with width and base model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in _weights(model).items()}, folder / WEIGHTS,
              metadata={"format": "pt"})
    description = {"baseModel": base_model, "revision": revision, "bottleneckSize": size}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_bottleneck(model: PreTrainedModel, folder: str | Path) -> None:
    """Add published bottlenecks to a loaded base model, in place.

    Args:
        model: the base model, in any data type.
        folder: the published folder.

    Raises:
        ValueError: the weights do not fit the model.
    """
    size = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))["bottleneckSize"]
    add_bottlenecks(model, size)
    published, here = load_file(Path(folder) / WEIGHTS), _weights(model)
    if {name: tensor.shape for name, tensor in published.items()} != {name: t.shape for name, t in here.items()}:
        raise ValueError(f"{folder}: its weights do not fit the model. Load the base model that {DESCRIPTION} names")
    for name, tensor in here.items():
        tensor.copy_(published[name])


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if f".{NAME}." in name}
