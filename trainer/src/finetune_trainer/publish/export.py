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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.hardware.device import Device
from finetune_trainer.hardware.memory import give_back
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.trained_model import TrainedModel
from finetune_trainer.trained_model.whole_model import save_whole


def export_trained(trained_model: TrainedModel, base_model: str, revision: str | None, folder: Path) -> None:
    """What was trained, in its own layout; the model can be evaluated afterwards as it was."""
    trained_model.publish(folder, base_model, revision)
    trained_model.causal.config.use_cache = False  # A whole model is published with it; in a pass it only takes memory.
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


def export_merged(trained_model: TrainedModel, published: Path, files: ModelFiles, quantization: Quantization,
                  device: Device, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
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

    save_whole(trained_model.merged(published, base), tokenizer, folder)
