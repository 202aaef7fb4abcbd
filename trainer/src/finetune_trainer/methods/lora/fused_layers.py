"""PEFT's LoRA layers with `fused_linear` as their forward pass. Parameters, saving, loading and merging stay PEFT's.

PEFT's own forward pass runs where a pass needs what only it has: LoRA's dropout in training, several active adapters,
none or a merged one, adapters by row, weights in 8 bits, and layers of a PEFT that this was not written for.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit as Frozen4bit
from peft import PeftModel
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant

from finetune_trainer.methods.lora.fused_linear import Layer, RowScale, fused_linear

_PARAMETERS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_OTHERS = ("r", "lora_alpha", "scaling", "lora_dropout", "use_dora", "use_rslora", "lora_bias")
_MAGNITUDES = "lora_magnitude_vector"
"""PEFT's class attribute gets this name once a process has made a DoRA layer."""
_DECODED_ROWS = 256
"""A pass without a gradient over at most as many tokens is one of generation: a token for each row of a batch."""
_CLIPS_OUTPUTS = "clip_qkv"
"""The setting of models that write into the outputs of their layers (OLMo, OLMoE). A fused DoRA layer saves its own."""


def fuse(model: PeftModel) -> int:
    """Fuse the layers of a model's adapters; other layers stay as PEFT made them.

    Returns:
        How many layers are fused: 0 where PEFT is not the version that this was written for.
    """
    if not peft_is_known():
        return 0
    clips = getattr(getattr(model, "config", None), _CLIPS_OUTPUTS, None) is not None
    for module in model.modules():
        fused = _FUSED.get((type(module), type(getattr(module, "base_layer", None))))
        if fused is not None and not module.fan_in_fan_out and not module.ephemeral_gpu_offload and not (
                clips and any(module.use_dora.values())):
            module.__class__ = fused
    return sum(isinstance(module, FusedLinear | FusedLinear4bit) for module in model.modules())


def peft_is_known() -> bool:
    """Whether PEFT's layers have the private parts that this module relies on, and no others."""
    return (set(LoraLayer.adapter_layer_names) - {_MAGNITUDES} == set(_PARAMETERS)
            and LoraLayer.other_param_names == _OTHERS
            and all(tuple(inspect.signature(layer.forward).parameters) == ("self", "x", "args", "kwargs")
                    for layer in (Linear, Linear4bit)))


class ScalesRows(LoraVariant):
    """A variant of LoRA which scales the rows of its layer's output."""

    @staticmethod
    def row_scale(module: LoraLayer, adapter: str, dtype: torch.dtype) -> RowScale:
        """The factor on the rows, in a pass that computes in this type."""
        raise NotImplementedError


class FusedLinear(Linear):
    """LoRA beside a layer in full precision."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's output, as PEFT's: (..., outputs)."""
        output = None if args or kwargs else _fused_output(self, x)
        return super().forward(x, *args, **kwargs) if output is None else output


class FusedLinear4bit(Linear4bit):
    """LoRA beside a layer in 4 bits."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's output, as PEFT's: (..., outputs)."""
        output = None if args or kwargs else _fused_output(self, x)
        # bitsandbytes' layers answer in the type of x.
        return super().forward(x, *args, **kwargs) if output is None else output.to(x.dtype)


_FUSED = {(Linear, torch.nn.Linear): FusedLinear, (Linear4bit, Frozen4bit): FusedLinear4bit}


def _fused_output(module: LoraLayer, x: torch.Tensor) -> torch.Tensor | None:
    """The output in the type that the layer computes in; None for a pass that needs PEFT's own way."""
    adapter = _plain_adapter(module)
    layer = None if adapter is None else _layer(module, adapter, x)
    if adapter is None or layer is None:
        return None
    a, b, dropout = module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.lora_dropout[adapter]
    if not module.training or isinstance(dropout, torch.nn.Identity):
        return fused_linear(layer, x, a, b)
    if layer.scale is None:
        return None
    # PEFT's formula for DoRA with dropout D: W(x - Dx) + m / ‖W + sBA‖ · (W + sBA)Dx.
    dropped = dropout(x)
    output = fused_linear(layer, dropped, a, b)
    return output + module.base_layer(x - dropped).to(output.dtype)


def _plain_adapter(module: LoraLayer) -> str | None:
    """The adapter of a pass, if it is the only one that takes part, and as it is."""
    active = module.active_adapters
    if len(active) != 1 or module.disable_adapters or module.merged:
        return None
    adapter: str = active[0]
    return adapter if adapter in module.lora_A and not module.lora_bias[adapter] else None


def _layer(module: LoraLayer, adapter: str, x: torch.Tensor) -> Layer | None:
    """What `fused_linear` computes with; None where the layer or x is of another kind than this was written for."""
    base, kind = module.base_layer, x.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    if dtype not in (torch.float32, torch.bfloat16) or base.weight.requires_grad or (
            base.bias is not None and base.bias.requires_grad):
        return None
    if isinstance(base, Frozen4bit):
        state = base.weight.quant_state
        if (state is None or tuple(state.shape) != (base.out_features, base.in_features)
                or getattr(state, "packing_format_for_cpu", False)):
            return None
    elif not autocast and base.weight.dtype is not dtype:
        return None
    variant, scale = module.lora_variant.get(adapter), None
    if variant is not None:
        if not isinstance(variant, ScalesRows):
            return None
        scale = variant.row_scale(module, adapter, dtype)
    decodes = not torch.is_grad_enabled() and isinstance(base, Frozen4bit) and x.numel() <= _DECODED_ROWS * x.shape[-1]
    return Layer(base, module.scaling[adapter], dtype, scale, decodes)
