"""A model's own parameters, trained in place: all of them, or some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_api.messages.layout import CHANGED, MODEL
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.methods.partial.published import save_partial
from finetune_trainer.publish.export import save_whole
from finetune_trainer.trained_model import Loading


class WholeModel:
    """A model all of whose parameters are trained; published whole, with its tokenizer."""

    folder = MODEL
    loading = Loading()

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = self.causal = model
        self._tokenizer = tokenizer

    def rate(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the model as transformers does; it needs no base any more."""
        save_whole(self.model, self._tokenizer, folder)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """What is published is whole already; validation refuses to ask for it twice."""
        return self.model


class ChangedParameters:
    """A model some of whose parameters are trained; published are these alone, by their names."""

    folder = CHANGED
    loading = Loading(
        ("import os", "", "from safetensors.torch import load_file"),
        ("# the same as finetune_trainer.load.load_partial(model, published)",
         'changed = load_file(os.path.join(published, "changed.safetensors"))',
         "missing, unexpected = model.load_state_dict(changed, strict=False)",
         "assert not unexpected"))

    def __init__(self, model: PreTrainedModel, chosen: Mapping[str, Any]) -> None:
        """
        Args:
            model: with the chosen parameters alone requiring gradients.
            chosen: what the job chose them by, for the published folder.
        """
        self.model = self.causal = model
        self._chosen = chosen

    def rate(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the changed parameters, and what they belong to."""
        save_partial(self.model, folder, base_model, revision, self._chosen)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The model as it is: its parameters changed in place."""
        return self.model
