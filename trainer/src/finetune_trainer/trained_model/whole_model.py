"""A model that is published whole: all its weights are trained, or something is merged into them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_api.messages.layout import MODEL
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.trained_model.interface import LoadInstructions


class WholeModel:
    """A model whose parameters are all trained; it is published whole, with its tokenizer."""

    folder = MODEL
    load_instructions = LoadInstructions()

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = self.causal = model
        self._tokenizer = tokenizer

    def learning_rate_factor(self, name: str) -> float:
        """1: all parameters learn at one rate."""
        return 1.0

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the model as transformers does; the published folder needs no base model."""
        save_whole(self.model, self._tokenizer, folder)

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The model itself. Validation rejects `merged` for a method that publishes a whole model."""
        return self.model


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole model with its tokenizer; transformers loads the folder without this package."""
    for leftover in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    model.config.use_cache = True
    make_generation_writable(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_generation_writable(model: PreTrainedModel) -> None:
    """Repair generation settings that transformers reads but refuses to write.

    Many a generation_config.json sets a temperature without `do_sample`; `do_sample: true` makes it valid. Where that
    is not the cause, the settings are made anew from the model's configuration.
    """
    settings = model.generation_config
    if settings is None or _is_writable(settings):
        return
    drawn = GenerationConfig.from_dict({**settings.to_dict(), "do_sample": True})
    model.generation_config = drawn if _is_writable(drawn) else GenerationConfig.from_model_config(model.config)


def _is_writable(settings: GenerationConfig) -> bool:
    try:
        settings.validate(strict=True)
    except ValueError:
        return False
    return True
