"""Bottleneck adapters in a frozen model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_api.messages.layout import ADAPTER
from transformers import PreTrainedModel

from finetune_trainer.methods.additive.bottleneck import save_bottlenecks
from finetune_trainer.trained_model import LoadInstructions


class Bottlenecks:
    """A model with bottlenecks, which alone require gradients."""

    folder = ADAPTER
    load_instructions = LoadInstructions(
        ("from finetune_trainer.load import load_bottleneck",),
                      ("load_bottleneck(model, published)",), relation="adapter")

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        self.model = self.causal = model
        self._size = size

    def learning_rate_factor(self, name: str) -> float:
        """1: all parameters learn at one rate."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the bottlenecks alone."""
        save_bottlenecks(self.model, self._size, folder, base_model, revision)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """Never asked for: validation knows that there is nothing to merge a network into."""
        raise AssertionError("bottlenecks can't be merged")
