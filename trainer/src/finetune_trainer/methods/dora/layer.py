"""DoRA at the price of LoRA: PEFT's adapter and format, with weight norms that are cached between optimizer steps.

Liu et al., 2024 (arXiv:2402.09353): the output is m / ‖W + sBA‖ · (Wx + sBAx), where the norm, one for each row, counts
as a constant in the gradient (§ 4.3). PEFT builds the dense W + sBA for its norm in every pass; `norms.CachedNorms`
computes the norms once a step. Where a run trains in float32, the first pass of a step sends A's rows through the
frozen layer behind its tokens: W·Aᵀ then needs no dequantization of its own.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch.nn.functional import linear

from finetune_trainer.methods.dora.norms import CachedNorms, WeightsVersion

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
        if (type(module.get_base_layer()) in (torch.nn.Linear, Linear4bit)
                and _before_layer not in module._forward_pre_hooks.values()):
            module.register_forward_pre_hook(_before_layer)
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


def _is_plain(module: LoraLayer, adapter: str | None) -> bool:
    """Whether a pass needs nothing that only PEFT's own forward has."""
    return ((isinstance(module.lora_dropout[adapter], torch.nn.Identity) or not module.training)
            and list(module.active_adapters) == [adapter])


def _before_layer(module: LoraLayer, inputs: tuple[torch.Tensor, ...]) -> None:
    """Before a layer: where norms are needed and float32 makes them exact, its frozen part gets A's rows too.

    The hook on the frozen part lasts for one pass: an adapter that is taken out of a model leaves nothing behind.
    """
    adapter = module.active_adapters[0] if module.active_adapters else None
    if adapter not in module.lora_magnitude_vector:
        return
    layer = module.lora_magnitude_vector[adapter]
    if (type(layer) is CachedNorms and not layer.are_current(True) and module.training and torch.is_grad_enabled()
            and _is_plain(module, adapter) and not module.disable_adapters and not module.merged
            and inputs[0].dtype is module.lora_A[adapter].weight.dtype is torch.float32
            and not torch.is_autocast_enabled(inputs[0].device.type)):
        rows = module.lora_A[adapter].weight.detach()

        def append(base: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            handle.remove()
            return _Appended.apply(inputs[0], rows), *inputs[1:]

        handle = module.get_base_layer().register_forward_pre_hook(append)


class _Appended(torch.autograd.Function):
    """Rows behind those of x, which count in no gradient; the shape is (all rows, features)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.shape = x.shape
        return torch.cat((x.reshape(-1, x.shape[-1]), rows))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad[:ctx.shape[:-1].numel()].view(ctx.shape), None


class FastDora(DoraLinearVariant):
    """PEFT's DoRA with a forward pass that uses cached norms; merging and all else is PEFT's."""

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
                ) -> torch.Tensor:
        """The layer's whole output; PEFT's own way with dropout, or where several adapters are active."""
        layer = module.lora_magnitude_vector[active_adapter]
        if _is_plain(module, active_adapter):
            tokens = x.shape[:-1].numel()
            appended = result.shape[:-1].numel() > tokens
            norms = layer.norms(module, active_adapter, result[tokens:].detach() if appended else None)
            if not layer.invertible:
                result = result[:tokens].view(*x.shape[:-1], -1) if appended else result
            else:
                kind = x.device.type
                dtype = (torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind)
                         else module.lora_A[active_adapter].weight.dtype)
                output: torch.Tensor = _Scaled.apply(
                    _Constants(norms, module.scaling[active_adapter], dtype), result, x,
                    module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight, layer.weight)
                return output
        peft: torch.Tensor = DoraLinearVariant.forward(module, active_adapter=active_adapter, x=x, result=result,
                                                       **kwargs)
        return peft

    @staticmethod
    def unmerge(module: LoraLayer, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """As PEFT does. The base weight comes back rounded, so cached values that follow from it are dropped."""
        module.lora_magnitude_vector[active_adapter].drop()
        weight: torch.Tensor = DoraLinearVariant.unmerge(module, active_adapter, orig_weight)
        return weight


class _Constants(NamedTuple):
    """What counts as constant in the gradient of a layer.

    Attributes:
        norms: ‖W + sBA‖ of each row, (outputs,), float32.
        scaling: s, the factor on BA.
        dtype: the type that the adapter computes in.
    """

    norms: torch.Tensor
    scaling: float
    dtype: torch.dtype


class _Scaled(torch.autograd.Function):
    """m / norm · (Wx + sBAx) from Wx, which is overwritten where it can be.

    The gradient of m needs output / m, so m must not be 0, and nothing but the output is saved for it, which the next
    operation often saves anyway. Rows of Wx behind those of x were appended, and have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, constants: _Constants, *tensors: torch.Tensor) -> torch.Tensor:
        """Takes Wx (result), x, A, B and m (magnitude), in this order."""
        (norms, scaling, dtype), (result, x, a, b, magnitude) = constants, tensors
        with torch.autocast(x.device.type, enabled=False):
            low = linear(x.reshape(-1, x.shape[-1]).to(dtype), a.to(dtype)).mul_(scaling)
            ctx.result_shape, ctx.result_dtype = result.shape, result.dtype
            if result.shape[:-1] != x.shape[:-1]:
                # Nobody else reads it: it came from the frozen layer's pass over the appended rows.
                output = result.detach()[:len(low)].view(*x.shape[:-1], -1)
            elif result.dtype is dtype and result.is_contiguous() and not result._is_view():
                output = result
                ctx.mark_dirty(result)
            else:
                output = result.to(dtype, copy=True, memory_format=torch.contiguous_format)
            rows = output.view(-1, output.shape[-1])
            # The factor is near 1, where bfloat16 has steps of 0.4 % and more: it stays in float32.
            rows.addmm_(low, b.to(dtype).T).mul_(magnitude / norms)
        ctx.save_for_backward(x, a, b, magnitude, norms, low, output)
        ctx.scaling = scaling
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, magnitude, norms, low, output = ctx.saved_tensors
        _, need_result, need_x, need_a, need_b, need_magnitude = ctx.needs_input_grad
        of_result = of_x = of_a = of_b = of_magnitude = None
        with torch.autocast(x.device.type, enabled=False):
            dtype = output.dtype
            flat = grad.reshape(-1, grad.shape[-1])
            if need_magnitude:
                summed = (flat * output.view(flat.shape)).sum(0, dtype=torch.float32)
                of_magnitude = (summed / magnitude).to(magnitude.dtype)
            padded = flat.new_empty(ctx.result_shape[:-1].numel(), flat.shape[-1])
            before = torch.mul(flat, magnitude / norms, out=padded[:len(flat)])
            if need_b:
                of_b = (before.T @ low).to(b.dtype)
            if need_a or need_x:
                of_low = (before @ b.to(dtype)).mul_(ctx.scaling)
                if need_a:
                    of_a = (of_low.T @ x.reshape(-1, x.shape[-1]).to(dtype)).to(a.dtype)
                if need_x:
                    of_x = (of_low @ a.to(dtype)).to(x.dtype).view(x.shape)
            if need_result:
                padded[len(flat):] = 0
                of_result = padded.to(ctx.result_dtype).view(ctx.result_shape)
        return None, of_result, of_x, of_a, of_b, of_magnitude
