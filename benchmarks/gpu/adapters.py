"""Our fused adapters and PEFT's own, in the type of the device, each against the formula in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.our_training import device_of, load_base
from benchmarks.gpu.settings import ALPHA, RANK, Settings

_TOKENS = 256
_LEAST_ERROR = {"torch.float32": 1e-5, "torch.bfloat16": 1e-2}
"""Relative: what rounding alone may cost an output or a gradient."""
_TIMES_PEFT = 1.5
"""Ours may be so many times as far from float32 as PEFT's own."""
_NAMES = ("output", "gradient of x", "of A", "of B", "of magnitudes")


def run(check: Check) -> None:
    """Compare LoRA and DoRA, on nf4 weights and on plain ones."""
    for quantization in ("nf4", "none"):
        for kind in ("LoRA", "DoRA"):
            name = f"fused {kind}, {quantization}"
            with check.attempt(name):
                check.say(name=name, **_compare(check.settings, kind, quantization))


def _compare(settings: Settings, kind: str, quantization: str) -> dict[str, Any]:
    """Relative errors of a layer's output and gradients; ours are within rounding, or no worse than PEFT's."""
    errors = {}
    for who in ("ours", "PEFT's"):
        layer, dtype, device = _layer(settings, kind, quantization, ours=who == "ours")
        x, gradient = (_numbers(_TOKENS, width).to(device, dtype) for width in (layer.in_features, layer.out_features))
        found = _with_gradients(_autocast(layer, device, dtype), x, gradient, _trained(layer))
        wanted = _with_gradients(_formula(layer), x.float(), gradient.float(), _trained(layer))
        errors[who] = [float((mine.float() - right).norm() / right.norm())
                       for mine, right in zip(found, wanted, strict=True)]
        fused = type(layer).__name__
        if who == "ours":
            ours = fused
        del layer
        release_memory()
    allowed = [max(_LEAST_ERROR[str(dtype)], _TIMES_PEFT * error) for error in errors["PEFT's"]]
    return {"layer": ours, "ok": ours.startswith("Fused") and all(
                error <= most for error, most in zip(errors["ours"], allowed, strict=True)),
            **{who: dict(zip(_NAMES, (float(f"{error:.2g}") for error in found), strict=False))
               for who, found in errors.items()}}


def _layer(settings: Settings, kind: str, quantization: str, ours: bool) -> tuple[Any, Any, Any]:
    """An adapted layer of the small model, with trained-looking values in it; its type and device."""
    import torch
    from finetune_trainer.methods.dora.layer import cache_norms, start_at_norms
    from finetune_trainer.methods.lora.fused_layers import fuse
    from finetune_trainer.trained_model import weights_changed
    from peft import LoraConfig, get_peft_model

    device = device_of(settings)
    base = load_base(settings.small_bf16, quantization, device)
    adapted = get_peft_model(base.model, LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=kind == "DoRA",
                                                    target_modules=["down_proj"]))
    if ours:
        fuse(adapted)
        if kind == "DoRA":
            _, version = cache_norms(adapted)
            version.unfollow_optimizers()
            start_at_norms(adapted)
    layer = adapted.base_model.model.model.layers[0].mlp.down_proj.train()
    with torch.no_grad():
        b = layer.lora_B["default"].weight
        b.copy_(_numbers(*b.shape) * 0.02)
        if kind == "DoRA":
            magnitude = layer.lora_magnitude_vector["default"].weight
            magnitude.mul_(1 + 0.01 * _numbers(len(magnitude)).to(magnitude.device))
    weights_changed(adapted)
    return layer, device.dtype, device.torch_device


def _numbers(*shape: int) -> Any:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def _trained(layer: Any) -> list[Any]:
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    return [layer.lora_A["default"].weight, layer.lora_B["default"].weight,
            *([magnitudes["default"].weight] if "default" in magnitudes else [])]


def _with_gradients(function: Callable[[Any], Any], x: Any, gradient: Any, trained: Sequence[Any]) -> list[Any]:
    import torch

    x = x.detach().requires_grad_()
    output = function(x)
    return [output.detach(), *torch.autograd.grad(output, [x, *trained], gradient.to(output.dtype))]


def _autocast(layer: Any, device: Any, dtype: Any) -> Callable[[Any], Any]:
    import torch

    def forward(x: Any) -> Any:
        with torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16):
            return layer(x)

    return forward


def _formula(layer: Any) -> Callable[[Any], Any]:
    """W x + s·B A x, and with DoRA's magnitudes m / ‖W + sBA‖ of it, whose norm has no gradient; all in float32."""
    import torch
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer.base_layer).detach().float()
    a, b, *magnitude = _trained(layer)
    scaling = layer.scaling["default"]

    def forward(x: Any) -> Any:
        output = x @ weight.T + scaling * (x @ a.T) @ b.T
        if not magnitude:
            return output
        with torch.no_grad():
            norms = torch.linalg.vector_norm(weight + scaling * b @ a, dim=1)
        return magnitude[0] / norms * output

    return forward
