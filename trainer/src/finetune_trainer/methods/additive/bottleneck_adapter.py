"""A frozen model with trained bottleneck adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_api.messages.layout import ADAPTER
from transformers import PreTrainedModel

from finetune_trainer.methods.additive.bottleneck import save_bottlenecks
from finetune_trainer.trained_model import LoadInstructions


class Bottlenecks:
    """A model with bottlenecks. Only the bottlenecks are trained."""

    folder = ADAPTER
    load_instructions = LoadInstructions(
        ("from finetune_trainer.load import load_bottleneck",),
                      ("load_bottleneck(model, published)",), relation="adapter")

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        self.model = self.causal = model
        self._size = size

    def learning_rate_factor(self, name: str) -> float:
        """1: all parameters have the same learning rate."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the bottlenecks, without the base model."""
        save_bottlenecks(self.model, self._size, folder, base_model, revision)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """Never called: validation rejects the export `merged` for bottlenecks.

        Raises:
            AssertionError: always.
        """
        raise AssertionError("bottlenecks cannot be merged")
