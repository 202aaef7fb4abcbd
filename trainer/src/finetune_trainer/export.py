"""What a trained model is published as: a PEFT adapter, and on request a whole model with the adapter merged in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.spec.method import Quantization
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from finetune_trainer.model.device import Device
from finetune_trainer.model.files import ModelFiles
from finetune_trainer.model.load import load_model

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def export_adapter(model: PeftModel, base_model: str, revision: str | None, folder: Path) -> None:
    """The adapter in PEFT's layout, naming the base model as the job does rather than a folder of this machine."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_model
    config.revision = revision
    config.inference_mode = True
    # "auto" would ask the hub whether the vocabulary had grown; an adapter of ours never holds embeddings.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    broken = [name for name, tensor in load_file(folder / ADAPTER_WEIGHTS).items() if not tensor.isfinite().all()]
    assert not broken, f"the adapter holds values that are not finite: {broken[:3]}"


def export_merged(files: ModelFiles, quantization: Quantization, device: Device, adapter: Path,
                  tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A whole model in safetensors: the base as it was trained on (dequantised where it was quantized) + the adapter.

    Merging into the base before its quantization would make another model than the one that was evaluated.
    """
    base: Any = load_model(files, quantization, device)
    if quantization is not Quantization.NONE:
        base = base.dequantize()
        base.to(device.dtype)
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    for leftover in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(merged.config, leftover):
            delattr(merged.config, leftover)
    merged.config.use_cache = True
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


