"""LoftQ's start of a LoRA adapter: it makes up for what 4-bit weights have lost.

Li et al., 2023 (arXiv:2310.08659), one round, on the base as nf4 stores it: so the adapter fits any copy of that base.
PEFT's own `replace_lora_weights_loftq` needs a GPU, and takes alpha / rank for 1.
"""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import torch
from peft import PeftModel
from peft.tuners.lora.bnb import Linear4bit
from safetensors import safe_open

from finetune_trainer.errors import BadConfig

_ROUNDS = 16


@torch.no_grad()
def start_from_quantization_error(model: PeftModel, folder: Path) -> None:
    """Set every adapter's A and B to the best rank-r fit of (weight before - after its quantization).

    Args:
        model: with a fresh LoRA adapter named `default` on 4-bit layers.
        folder: the base model's safetensors, as they were before.

    Raises:
        BadConfig: a layer's weight is not in the files under its name.
    """
    files = {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        stored = layer.get_base_layer().weight
        after = bitsandbytes.functional.dequantize_4bit(stored.data, stored.quant_state).float()
        before = _tensor(files, f"{name}.weight", model.get_base_model().base_model_prefix).to(after)
        rank, scale = layer.r["default"], layer.scaling["default"]
        left, values, right = torch.svd_lowrank(before - after, rank, _ROUNDS)
        root = (values / scale).sqrt()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a.copy_(root[:, None] * right.T)
        b.copy_(left * root)


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _tensor(files: dict[str, Path], name: str, prefix: str) -> torch.Tensor:
    found = next((known for known in (name, name.removeprefix(f"{prefix}.")) if known in files), None)
    if found is None:
        raise BadConfig(f"spec.method.lora.initialization: the model's files hold no {name}, which loftq starts from; "
                        "write default")
    with safe_open(files[found], "pt") as file:
        tensor: torch.Tensor = file.get_tensor(found)
    return tensor
