"""What a method trains in a model, and what is published of it: an adapter, changed parameters, or a whole model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from finetune_trainer.distributed.sharding import full_tensor, set_parameter
from finetune_trainer.methods.dora.layer import weights_changed

TRAINED = "trained.safetensors"
"""The trained parameters in a checkpoint, by their names in the model."""


@dataclass(frozen=True)
class Loading:
    """How a published folder is read back, for the model card.

    Attributes:
        imports: lines of Python that import what is needed beside transformers.
        lines: lines of Python that put the folder `published` into the loaded base `model`; none for a whole model.
        library: the hub's `library_name`.
        relation: the hub's `base_model_relation`.
    """

    imports: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    library: str = "transformers"
    relation: str = "finetune"


class Tuned(Protocol):
    """A model with something in it that is trained: its parameters that require gradients, whatever they are."""

    @property
    def model(self) -> Any:
        """The model to call, to `generate` with, and to train."""
        ...

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model itself: `model`, or what lies inside it."""
        ...

    @property
    def folder(self) -> str:
        """The folder below an attempt's results that it is published as (`finetune_api.messages.layout`)."""
        ...

    @property
    def loading(self) -> Loading:
        """How to read that folder back."""
        ...

    def rate(self, name: str) -> float:
        """What the learning rate is multiplied by for a parameter."""
        ...

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write what was trained, naming the base model as the job does rather than a folder of this machine."""
        ...

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """A whole model with what was published in `folder` merged in; `base` loads the base model in full precision.
        """
        ...


def save_trained(model: torch.nn.Module, folder: Path, writes: bool = True) -> None:
    """Write the trained parameters, as they are, for `load_trained`.

    Args:
        model: what they are in; where it is divided (`sharding.py`), all processes have to call this.
        folder: where to.
        writes: whether this process does; else it only helps to gather them.
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
    """Put trained parameters back to the bit, also where something has rounded them meanwhile.

    Args:
        model: what they are in; where it is divided (`sharding.py`), all processes have to call this.
        folder: what `save_trained` wrote; of a divided model the first process alone needs it.
    """
    path = folder / TRAINED
    with safe_open(path, "pt") if path.exists() else nullcontext() as file:
        left = set(file.keys()) if file else set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                set_parameter(parameter, file.get_tensor(name) if file else None)
                parameter.grad = None
                left.discard(name)
    weights_changed()
    assert not left, f"these are not trained: {sorted(left)[:3]}"


def count_trained(model: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
