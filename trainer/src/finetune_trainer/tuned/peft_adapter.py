"""A PEFT adapter beside frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_api.layout import ADAPTER
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.tuned import Loading


class PeftAdapter:
    """A model of PEFT's; published in PEFT's own layout.

    Attributes:
        model: with its adapter, which is named `default`.
    """

    folder = ADAPTER
    loading = Loading(("from peft import PeftModel",), ("model = PeftModel.from_pretrained(model, published)",),
                      library="peft", relation="adapter")

    def __init__(self, model: PeftModel) -> None:
        self.model = model

    @property
    def causal(self) -> PreTrainedModel:
        """The base model, with the adapter's layers in it."""
        base: PreTrainedModel = self.model.get_base_model()
        return base

    def rate(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the adapter as PEFT does."""
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = base_model
        config.revision = revision
        config.inference_mode = True
        # "auto" would ask the hub whether the vocabulary had grown; an adapter of ours never holds embeddings.
        self.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The base with the published adapter added to its weights."""
        merged: PreTrainedModel = PeftModel.from_pretrained(base(), str(folder)).merge_and_unload()
        return merged
