"""DoRA at the price of LoRA: PEFT's adapter and format, with weight norms that are cached between optimizer steps.

Liu et al., 2024 (arXiv:2402.09353): the output is m / ‖W + sBA‖ · (Wx + sBAx), where the norm, one for each row, counts
as a constant in the gradient (§ 4.3). PEFT builds the dense W + sBA for its norm in every pass; `norms.CachedNorms`
computes the norms once a step. Where a run trains in float32, the first pass of a step sends A's rows through the
frozen layer behind its tokens: W·Aᵀ then needs no dequantization of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant

from finetune_trainer.methods.dora.norms import CachedNorms, WeightsVersion
from finetune_trainer.methods.lora.fused_layers import ScalesRows, fuse
from finetune_trainer.methods.lora.fused_linear import RowScale

_PEFT_FORWARD = ("module", "active_adapter", "x", "result", "kwargs")
_PEFT_LAYER = ("self", "fan_in_fan_out")


class CachedLayers(NamedTuple):
    """What `cache_norms` did.

    Attributes:
        layers: how many layers cache their norms: 0 where PEFT is not the version that this was written for.
        version: the version of the weights that these layers share.
    """

    layers: int
    version: WeightsVersion


def cache_norms(model: PeftModel, adapter: str = "default") -> CachedLayers:
    """Let the DoRA layers of a model cache their norms; other layers stay as PEFT made them.

    The version follows every optimizer. The caller calls `version.unfollow_optimizers()` when training is over.
    """
    version = WeightsVersion()
    if not peft_is_known():
        return CachedLayers(0, version)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _fits(module, adapter)]
    for module in layers:
        module.lora_magnitude_vector[adapter] = CachedNorms(module.lora_magnitude_vector[adapter], version)
        module.lora_variant[adapter] = FastDora()
    fuse(model)
    version.follow_optimizers()
    return CachedLayers(len(layers), version)


@torch.no_grad()
def start_at_norms(model: PeftModel, adapter: str = "default") -> None:
    """Set the magnitudes of layers with cached norms to these norms, so that a fresh adapter changes nothing.

    PEFT computes its start in the type of the base: in bfloat16 that is off by up to 0.4 %.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and type(module.lora_variant.get(adapter)) is FastDora:
            layer = module.lora_magnitude_vector[adapter]
            layer.weight.copy_(layer.norms(module, adapter))


@contextmanager
def cached_norms(model: PeftModel, note: Callable[[str], None]) -> Iterator[None]:
    """While a fresh DoRA adapter trains, its layers cache their norms, and the magnitudes start at these.

    Args:
        model: the model with its adapter.
        note: receives a note for people where the norms cannot be cached.
    """
    layers, version = cache_norms(model)
    if not layers:
        note("DoRA runs at PEFT's own speed: the norms of its layers cannot be cached")
    # The magnitudes start as the norms of the (dequantized) weights, so the model is unchanged at first.
    start_at_norms(model)
    try:
        yield
    finally:
        version.unfollow_optimizers()


def peft_is_known() -> bool:
    """Whether PEFT's private parts are those that this module relies on."""
    return (tuple(inspect.signature(DoraLinearVariant.forward).parameters) == _PEFT_FORWARD
            and tuple(inspect.signature(DoraLinearLayer.__init__).parameters) == _PEFT_LAYER
            and hasattr(DoraLinearVariant, "unmerge"))


def _fits(module: LoraLayer, adapter: str) -> bool:
    """Whether it is a plain DoRA on a linear layer without a bias."""
    base = module.get_base_layer()
    return (type(module.lora_variant.get(adapter)) is DoraLinearVariant
            and type(module.lora_magnitude_vector[adapter]) is DoraLinearLayer
            and type(base) in (torch.nn.Linear, Linear4bit, Linear8bitLt) and base.bias is None
            and not getattr(module, "fan_in_fan_out", False) and not module.lora_bias[adapter]
            and not module.ephemeral_gpu_offload)


class FastDora(DoraLinearVariant, ScalesRows):
    """PEFT's DoRA with cached norms, in float32 whatever type the layer computes in; merging and all else is PEFT's."""

    @staticmethod
    def row_scale(module: LoraLayer, adapter: str, dtype: torch.dtype) -> RowScale:
        """m / ‖W + sBA‖."""
        layer = module.lora_magnitude_vector[adapter]
        # Products in bfloat16 would be rounded; where no gradient is wanted, a pass is not the first of many.
        products = (dtype is torch.float32 and module.training and torch.is_grad_enabled()
                    and not layer.are_current(True))
        return RowScale(layer.weight, partial(layer.norms, module, adapter), products)

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
                ) -> torch.Tensor:
        """The layer's whole output where it is not fused: beside weights in 8 bits, and where several adapters are
        active, which is PEFT's.
        """
        if list(module.active_adapters) != [active_adapter]:
            peft: torch.Tensor = DoraLinearVariant.forward(module, active_adapter=active_adapter, x=x, result=result,
                                                           **kwargs)
            return peft
        layer, dropped = module.lora_magnitude_vector[active_adapter], module.lora_dropout[active_adapter](x)
        factor = layer.weight / layer.norms(module, active_adapter)
        low = module.lora_B[active_adapter](module.lora_A[active_adapter](dropped)) * module.scaling[active_adapter]
        if dropped is x:
            return (factor * (result + low)).to(result.dtype)
        product = module.get_base_layer()(dropped.to(result.dtype))
        return (result + ((factor - 1) * product + factor * low)).to(result.dtype)

    @staticmethod
    def unmerge(module: LoraLayer, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """As PEFT does. The base weight comes back rounded, so cached values that follow from it are dropped."""
        module.lora_magnitude_vector[active_adapter].drop()
        weight: torch.Tensor = DoraLinearVariant.unmerge(module, active_adapter, orig_weight)
        return weight
