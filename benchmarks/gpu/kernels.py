"""Liger's kernels and torch's own, in the type of the device, each against float32 on the CPU."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.our_training import Base, device_of, load_base, method, resolved_spec
from benchmarks.gpu.settings import Settings

_TOKENS = 128
_LEAST_ERROR = 2e-2
"""Relative: what rounding to bfloat16 alone may cost a gradient that went through all layers."""
_TIMES_TORCH = 1.5
"""Liger's may be so many times as far from float32 as torch's own."""


def run(check: Check) -> None:
    """Compare the logits of the small model, and the gradient of its inputs."""
    name = "Liger's kernels"
    with check.attempt(name):
        check.say(name=name, **_compare(check.settings))


def _compare(settings: Settings) -> dict[str, Any]:
    wanted, _, _ = _passed(settings, "torch", on_cpu=True)
    errors, notes = {}, []
    for kernels in ("torch", "auto"):
        found, used, said = _passed(settings, kernels)
        errors[kernels] = [float((mine - right).norm() / right.norm())
                           for mine, right in zip(found, wanted, strict=True)]
        notes += said
        release_memory()
    close = all(ours <= max(_LEAST_ERROR, _TIMES_TORCH * torchs)
                for ours, torchs in zip(errors["auto"], errors["torch"], strict=True))
    # On a GPU this model, a Mistral in bfloat16, gets them.
    return {"ok": close and (settings.dry or used != "torch"), "used": used, "notes": notes,
            **{f"errors of {kernels}": [float(f"{error:.2g}") for error in found]
               for kernels, found in errors.items()}}


def _passed(settings: Settings, kernels: str, on_cpu: bool = False) -> tuple[list[Any], str, list[str]]:
    """Logits and the inputs' gradient in float32 in host memory, the kernels that were used, and what notes say."""
    from finetune_trainer.engines.kernels import use_kernels

    base = load_base(settings.small_bf16, "none", device_of(settings, on_cpu))
    spec = resolved_spec(settings, method(quantization="none"), {"kernels": kernels}, settings.small_bf16)
    notes: list[str] = []
    used = use_kernels(base.model, spec, base.device, notes.append)
    return _logits_and_gradient(settings, base), used, notes


def _logits_and_gradient(settings: Settings, base: Base) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, settings.small.vocabulary, (2, _TOKENS), generator=generator)
    weights = torch.randn(2, _TOKENS, settings.small.vocabulary, generator=generator)
    inputs = base.model.get_input_embeddings()(ids.to(base.model.device)).detach().requires_grad_()
    with base.device.autocast():
        logits = base.model.train()(inputs_embeds=inputs, use_cache=False).logits
    (gradient,) = torch.autograd.grad(logits, inputs, weights.to(logits.device, logits.dtype))
    return [logits.detach().float().cpu(), gradient.float().cpu()]
