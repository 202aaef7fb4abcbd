"""A model some of whose own parameters are trained in place; only these are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_api.messages.layout import CHANGED
from transformers import PreTrainedModel

from finetune_trainer.methods.partial.published import save_partial
from finetune_trainer.trained_model import LoadInstructions


class ChangedParameters:
    """A model some of whose parameters are trained; only these are published, under their names in the model."""

    folder = CHANGED
    load_instructions = LoadInstructions(
        ("import os", "", "from safetensors.torch import load_file"),
        ("# the same as finetune_trainer.load.load_partial(model, published)",
         'changed = load_file(os.path.join(published, "changed.safetensors"))',
         "missing, unexpected = model.load_state_dict(changed, strict=False)",
         "assert not unexpected"))

    def __init__(self, model: PreTrainedModel, chosen: Mapping[str, Any]) -> None:
        """
        Args:
            model: the model; only the chosen parameters require gradients.
            chosen: the job's `spec.method.partial`, which is written into the published folder.
        """
        self.model = self.causal = model
        self._chosen = chosen

    def learning_rate_factor(self, name: str) -> float:
        """1: all parameters learn at one rate."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the changed parameters and the name of the base model."""
        save_partial(self.model, folder, base_model, revision, self._chosen)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The model itself: its parameters changed in place."""
        return self.model
