"""Weights that are stored quantized: which of them can be trained on, and what to take instead of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finetune_api.spec.method import Quantization
from transformers import PreTrainedConfig

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.files.weights import Tensor, some

_STATES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")
_STATE_4BIT = ".quant_state.bitsandbytes__"


def stored_quantization(config: PreTrainedConfig, wanted: Quantization, source: str) -> Quantization | None:
    """The quantization of a model's stored weights; None where they are not quantized.

    Raises:
        BadConfig: the job can't be trained on weights that are stored in this way.
    """
    settings = _settings(config)
    if settings is None:
        return None
    kind, words = _kind(settings)
    original = "take the model that it was quantized from"
    if kind is None:
        raise BadConfig(f"spec.model.source: the weights of {source} are stored as {words}, which can't be trained on; "
                        f"{original} (with spec.method.quantization: nf4 it needs as little memory)")
    if kind is not wanted:
        raise BadConfig(f"spec.method.quantization is {wanted}; the weights of {source} are stored as {words} by "
                        f"bitsandbytes. Write {kind} (with a method that trains an adapter), or {original}")
    return kind


def _settings(config: PreTrainedConfig) -> Mapping[str, Any] | None:
    for part in (config, config.get_text_config()):
        for name in ("quantization_config", "compression_config"):
            settings = getattr(part, name, None)
            if settings:
                return as_mapping(settings)
    return None


def as_mapping(settings: Any) -> Mapping[str, Any]:
    """A `quantization_config` as a mapping: transformers has it as in config.json, or as an object."""
    return settings if isinstance(settings, Mapping) else settings.to_dict()


def _kind(settings: Mapping[str, Any]) -> tuple[Quantization | None, str]:
    method = str(settings.get("quant_method") or "").lower()
    if settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        kind = str(settings.get("bnb_4bit_quant_type") or "fp4")
        return (Quantization.NF4 if kind == "nf4" else None), kind
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        return Quantization.INT8, "int8"
    return None, method.upper() if method else "something quantized"


def refuse_whole_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are stored as integers where config.json has no quantization: their scales are unknown.

    Raises:
        BadConfig: with some of their names.
    """
    whole = {name: tensor.type for name, tensor in tensors.items()
             if tensor.type.startswith(("I", "U")) and name.endswith(".weight")}
    if whole:
        raise BadConfig(f"spec.model.source: {source} holds weights that are integers ({next(iter(whole.values()))}): "
                        f"{some(whole)}. They are stored quantized, and config.json does not say how; take the model "
                        "that they were quantized from")


def as_if_whole(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], stored: Quantization, source: str
                ) -> dict[str, Tensor]:
    """Weights that bitsandbytes stored, with the shapes that they had before quantization.

    Args:
        tensors: the weights in the files.
        shapes: the shapes of the model's weights, by name.
        stored: the quantization by config.json.
        source: the model's location, for messages.

    Raises:
        BadConfig: the weights are not stored in this way.
    """
    packed = {name.partition(_STATE_4BIT)[0] for name in tensors if _STATE_4BIT in name}
    scaled = {name for name in tensors if name.endswith(".SCB")}
    if not (packed if stored is Quantization.NF4 else scaled):
        raise BadConfig(f"spec.model.source: the config.json of {source} says that its weights are stored as {stored}, "
                        "and they are not; remove quantization_config from it")
    whole = {}
    for name, tensor in tensors.items():
        if name.endswith(_STATES) or _STATE_4BIT in name:
            continue
        shape = shapes.get(name)
        fits = name in packed and shape is not None and (math.prod(shape) + 1) // 2 == math.prod(tensor.shape)
        whole[name] = Tensor(tensor.type, shape) if fits and shape is not None else tensor
    return whole
