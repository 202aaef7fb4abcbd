"""Trained parameters: saved in a checkpoint, restored to the bit, and counted."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_trainer.distributed.sharding import full_tensor, set_parameter

TRAINED = "trained.safetensors"
"""The file of the trained parameters in a checkpoint; each stands under its name in the model."""


@runtime_checkable
class CachesTrainedWeights(Protocol):
    """A module that caches values which follow from trained weights."""

    def trained_weights_changed(self) -> None:
        """Drop the cached values: the trained weights have new ones."""


def weights_changed(model: torch.nn.Module) -> None:
    """Tell the modules of a model that its trained weights have new values.

    Code that writes into trained weights other than by an optimizer or `load_state_dict` calls this.
    """
    for module in model.modules():
        if isinstance(module, CachesTrainedWeights):
            module.trained_weights_changed()


def save_trained(model: torch.nn.Module, folder: Path, writes: bool = True) -> None:
    """Write the trained parameters, unchanged, for `load_trained`. A collective where the model is sharded.

    Args:
        model: the model that contains them.
        folder: the folder to write.
        writes: whether this rank writes the file; the others only take part in the gather.
    """
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = full_tensor(parameter.detach())
            if writes:
                weights[name] = value.cpu().contiguous()
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / TRAINED)


def load_trained(model: torch.nn.Module, folder: Path) -> None:
    """Restore trained parameters to the bit, even where other code has rounded them. A collective if sharded.

    Args:
        model: the model that contains them.
        folder: what `save_trained` wrote; of a sharded model only rank 0 needs it.

    Raises:
        RuntimeError: the file holds a parameter that this model does not train.
    """
    path = folder / TRAINED
    with safe_open(path, "pt") if path.exists() else nullcontext() as file:
        left = set(file.keys()) if file else set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                set_parameter(parameter, file.get_tensor(name) if file else None)
                parameter.grad = None
                left.discard(name)
    weights_changed(model)
    if left:
        raise RuntimeError(f"{path} holds parameters that this model does not train: {sorted(left)[:3]}")


def count_trained(model: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
