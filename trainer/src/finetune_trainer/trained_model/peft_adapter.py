"""A PEFT adapter beside frozen weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from finetune_api.messages.layout import ADAPTER
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.trained_model import Loading


class PeftAdapter:
    """A model of PEFT's; published in PEFT's own layout.

    Attributes:
        model: with its adapter, which is named `default`.
    """

    folder = ADAPTER
    loading = Loading(("from peft import PeftModel",), ("model = PeftModel.from_pretrained(model, published)",),
                      library="peft", relation="adapter")

    def __init__(self, model: PeftModel, rate_of_b: float = 1.0) -> None:
        """
        Args:
            model: with its adapter.
            rate_of_b: how many times faster LoRA's B learns than the rest (LoRA+).
        """
        self.model = model
        self._rate_of_b = rate_of_b

    @property
    def causal(self) -> PreTrainedModel:
        """The base model, with the adapter's layers in it."""
        base: PreTrainedModel = self.model.get_base_model()
        return base

    def rate(self, name: str) -> float:
        """LoRA's B has one of its own."""
        return self._rate_of_b if ".lora_B." in name else 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the adapter as PEFT does."""
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = base_model
        config.revision = revision
        config.inference_mode = True
        self._write(folder)
        (folder / "README.md").unlink(missing_ok=True)

    def _write(self, folder: Path, **options: str) -> None:
        # "auto" would ask the hub whether the vocabulary had grown; an adapter of ours never holds embeddings.
        self.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **options)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The base with the published adapter added to its weights."""
        merged: PreTrainedModel = PeftModel.from_pretrained(base(), str(folder)).merge_and_unload()
        return merged


class PissaAdapter(PeftAdapter):
    """A PiSSA adapter, which took its first values out of the base; published as a plain LoRA of twice the rank.

    The base of the run is W - s·B₀·A₀; so W + s·(B·A - B₀·A₀) is the same model, on the base as everybody has it.
    """

    def __init__(self, model: PeftModel, rate_of_b: float, scratch: Path) -> None:
        """
        Args:
            model: with its fresh adapter.
            rate_of_b: how many times faster B learns than A.
            scratch: a folder of this process, for the first values.
        """
        super().__init__(model, rate_of_b)
        self._first = scratch / "first"
        # Else PEFT would take the values out of the base again wherever it loads this.
        model.peft_config["default"].init_lora_weights = True
        self._write(self._first)

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the difference to the first values, as PEFT does."""
        with warnings.catch_warnings():
            # That a second adapter comes to the model is how PEFT reads the first values.
            warnings.simplefilter("ignore")
            super().publish(folder, base_model, revision)

    def _write(self, folder: Path, **options: str) -> None:
        if folder != self._first:
            options["path_initial_model_for_weight_conversion"] = str(self._first)
        super()._write(folder, **options)
