"""A PEFT adapter beside frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_api.messages.layout import ADAPTER
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.trained_model.interface import LoadInstructions


class PeftAdapter:
    """A PEFT model; its adapter is published in PEFT's own layout.

    Attributes:
        model: the base model with an adapter named `default`.
    """

    folder = ADAPTER
    load_instructions = LoadInstructions(
        ("from peft import PeftModel",), ("model = PeftModel.from_pretrained(model, published)",),
        library="peft", relation="adapter")

    def __init__(self, model: PeftModel, learning_rate_ratio: float = 1.0) -> None:
        """
        Args:
            model: the base model with its adapter.
            learning_rate_ratio: how many times faster LoRA's B learns than the other parameters (LoRA+).
        """
        self.model = model
        self._learning_rate_ratio = learning_rate_ratio

    @property
    def causal(self) -> PreTrainedModel:
        """The base model, with the adapter's layers in it."""
        base: PreTrainedModel = self.model.get_base_model()
        return base

    def learning_rate_factor(self, name: str) -> float:
        """LoRA+'s ratio for B, 1 for all else."""
        return self._learning_rate_ratio if ".lora_B." in name else 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the adapter as PEFT does."""
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = base_model
        config.revision = revision
        config.inference_mode = True
        self._write(folder)
        (folder / "README.md").unlink(missing_ok=True)

    def _write(self, folder: Path, **options: str) -> None:
        # "auto" would ask the hub whether the vocabulary had grown; no adapter of ours contains embeddings.
        self.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **options)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The base with the published adapter added to its weights."""
        merged: PreTrainedModel = PeftModel.from_pretrained(base(), str(folder)).merge_and_unload()
        return merged
