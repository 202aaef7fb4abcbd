"""What a trained model is published as: what was trained, and on request a whole model with that merged in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from finetune_api.spec.method import Quantization
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.hardware.device import Device
from finetune_trainer.hardware.memory import give_back
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.trained_model import Tuned


def export_trained(tuned: Tuned, base_model: str, revision: str | None, folder: Path) -> None:
    """What was trained, in its own layout; the model can be evaluated afterwards as it was."""
    tuned.publish(folder, base_model, revision)
    tuned.causal.config.use_cache = False  # A whole model is published with it; in a pass it only takes memory.
    broken = [name for path in sorted(folder.glob("*.safetensors")) for name in _not_finite(path)]
    assert not broken, f"what was trained holds values that are not finite: {broken[:3]}"


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Leave no half of what could not be made."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _not_finite(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118


def export_merged(tuned: Tuned, published: Path, files: ModelFiles, quantization: Quantization, device: Device,
                  tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A whole model in safetensors: the base as it was trained on (dequantised where it was quantized) + what was
    published.

    Merging into the base before its quantization would make another model than the one that was evaluated. It is done
    in host memory: the accelerator holds the trained model still, and may be too small for a whole one.
    """
    def base() -> PreTrainedModel:
        model: Any = load_model(files, quantization, Device(torch.device("cpu"), device.dtype, "sdpa"))
        if quantization is not Quantization.NONE:
            give_back()  # What it was before it was quantized, which is most of the peak.
            model = model.dequantize(dtype=device.dtype)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(device.dtype)
            # They stay behind, and PEFT merges no IA3 while they say so (0.21).
            model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
        loaded: PreTrainedModel = model
        return loaded

    save_whole(tuned.merged(published, base), tokenizer, folder)


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A whole model with its tokenizer, which transformers loads without knowing of us."""
    for leftover in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    model.config.use_cache = True
    make_generation_writable(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_generation_writable(model: PreTrainedModel) -> None:
    """Mend a model's settings of generation where transformers would read but not write them.

    Many a generation_config.json has a temperature and doesn't say that answers are drawn: then they are. Where that is
    not it, the settings follow from the model's configuration alone.
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
