"""Loading the base model, in full precision or quantized by bitsandbytes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from finetune_api.spec.method import Quantization
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from finetune_trainer.errors import OutOfMemory
from finetune_trainer.hardware.device import Device
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.files.weights import read_weights, refuse_adapters, start_of
from finetune_trainer.model.loading.base import Base, open_base
from finetune_trainer.model.loading.stored_quantization import as_mapping, stored_quantization
from finetune_trainer.model.reading import reading


def load_model(files: ModelFiles, quantization: Quantization, device: Device) -> PreTrainedModel:
    """The base model, frozen, on its device.

    Raises:
        BadConfig: its architecture is unknown or needs its own code, or its weights are not complete.
        MissingInput: one of its files is missing or damaged.
        OutOfMemory: it does not fit on the accelerator.
    """
    disable_progress_bar()
    base = check_base(files, quantization)
    stored = stored_quantization(base.config, quantization, base.source)
    if stored is Quantization.NF4:
        # This device decides the type to compute in, not the settings of the author of the files.
        base.config.quantization_config = {**as_mapping(base.config.quantization_config),
                                           "bnb_4bit_compute_dtype": str(device.dtype).removeprefix("torch.")}
    try:
        with reading(f"the model {files.name}"):
            model, report = base.model_class.from_pretrained(
                files.folder,
                config=base.config,
                dtype=device.dtype,
                quantization_config=None if stored else _quantization_config(quantization, device),
                device_map={"": device.torch_device},
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the base model does not fit on the accelerator (quantization {quantization}); write "
                          "spec.method.quantization: nf4, or choose an accelerator with more memory") from error
    base.refuse_made_up(report)
    model.requires_grad_(False)
    model.config.use_cache = False
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):
        # A mixture of experts would compute a router loss that nothing uses, and would fail in generation.
        text.output_router_logits = False
    _keep_training_layout(model)
    return model


def check_base(files: ModelFiles, quantization: Quantization) -> Base:
    """The base model without its weights, after a check that its files hold all of them; errors as in `load_model`."""
    names = [path.name for path in files.folder.iterdir()]
    refuse_adapters(files.folder, names, files.name)
    base = open_base(files.folder, files.name)
    base.check(read_weights(files.folder, names, start_of(files.folder), files.name), quantization)
    return base


def _quantization_config(quantization: Quantization, device: Device) -> BitsAndBytesConfig | None:
    if quantization is Quantization.NF4:
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=device.dtype)
    if quantization is Quantization.INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def _keep_training_layout(model: PreTrainedModel) -> None:
    """Keep quantized layers usable for training after an evaluation.

    On CPUs with AVX512-BF16, bitsandbytes 0.50.2 repacks 4-bit weights for fast inference at the first forward pass in
    evaluation mode, and does not undo it. Training on repacked weights gives wrong results without an error.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt):
            module.register_forward_pre_hook(_keep_int8_scales)


def _keep_int8_scales(module: Any, arguments: Any) -> None:
    """Restore the scales of an 8-bit weight, which are lost when a model that has run is moved or wrapped.

    In bitsandbytes 0.50.2 the first forward pass moves a weight's values and scales into the layer's state. Module.to,
    which PEFT and accelerate call, restores the values but not the scales, and the next forward pass needs both.
    """
    if module.weight.CB is not None and module.weight.SCB is None:
        module.weight.SCB = module.state.SCB


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over the frozen weights in memory, with quantization constants.

    It shows whether a resumed run has the same base model. Trainable parameters are left out.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            digest.update(f"{_base_name(name)} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(_bytes(parameter.data))
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                for tensor in (state.absmax, state.state2.absmax if state.nested else state.absmax):
                    digest.update(_bytes(tensor))
    return digest.hexdigest()


def _base_name(name: str) -> str:
    return name.replace("base_model.model.", "").replace(".base_layer", "")


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().contiguous().cpu().view(torch.uint8).numpy())  # type: ignore[arg-type]


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """The facts about the base model for the report."""
    config = model.config.get_text_config()
    return {"architecture": type(model).__name__, "layers": config.num_hidden_layers, "hidden": config.hidden_size,
            "parameters": model.num_parameters(), "dtype": str(model.dtype).removeprefix("torch."),
            "config": json.loads(config.to_json_string(use_diff=True))}
