"""The published model: what was trained, and on request a merged model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from finetune_api.spec.method import Quantization
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.errors import Diverged
from finetune_trainer.hardware.device import Device
from finetune_trainer.hardware.memory import give_back
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.trained_model import TrainedModel
from finetune_trainer.trained_model.whole_model import save_whole


def export_trained(trained_model: TrainedModel, base_model: str, revision: str | None, folder: Path) -> None:
    """Write what was trained, in its published form. The model can still be evaluated afterwards.

    Args:
        trained_model: the trained model.
        base_model: the base model as the job names it.
        revision: the base model's commit, tag or branch, if it has one.
        folder: the folder to write.

    Raises:
        Diverged: a trained value is not finite.
    """
    trained_model.publish(folder, base_model, revision)
    trained_model.causal.config.use_cache = False  # The published config has a cache; a forward pass needs none.
    broken = [name for path in sorted(folder.glob("*.safetensors")) for name in _not_finite(path)]
    if broken:
        raise Diverged(f"trained parameters have values that are not finite: {', '.join(broken[:3])}. Lower "
                       "spec.training.learningRate")


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove the folder if an exception is raised, so that no half of a model stays."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _not_finite(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118


@dataclass(frozen=True)
class BaseWeights:
    """How to load the base model as it was trained on.

    Attributes:
        files: the files of the model.
        quantization: how its weights are stored during training.
        device: the device that the model was trained on; the merged model gets its type.
    """

    files: ModelFiles
    quantization: Quantization
    device: Device

    def in_full_precision(self) -> PreTrainedModel:
        """The base in host memory, dequantized if it was quantized."""
        dtype = self.device.dtype
        model: Any = load_model(self.files, self.quantization, Device(torch.device("cpu"), dtype))
        if self.quantization is not Quantization.NONE:
            give_back()  # The weights from before the quantization, which are most of the peak.
            model = model.dequantize(dtype=dtype)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
            # dequantize leaves these set, and PEFT (0.21) merges no IA3 while they are.
            model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
        loaded: PreTrainedModel = model
        return loaded


def export_merged(trained_model: TrainedModel, published: Path, base: BaseWeights, tokenizer: PreTrainedTokenizerBase,
                  folder: Path) -> None:
    """Write a whole model in safetensors: the base as it was trained on, plus what was trained.

    A merge into the base from before its quantization would give another model than the evaluated one. The merge
    happens in host memory, because the accelerator still holds the trained model.

    Args:
        trained_model: the trained model.
        published: the folder that `export_trained` wrote.
        base: how to load the base.
        tokenizer: the tokenizer of the model.
        folder: the folder to write.
    """
    save_whole(trained_model.merged(published, base.in_full_precision), tokenizer, folder)
