"""Liger's Triton kernels for RMSNorm, rotary positions and SwiGLU, in place of transformers' many small operations.

liger-kernel (Hsu et al., 2024, arXiv:2410.10989; BSD 2-clause) is in the GPU image alone, and imported only here. The
kernels go into one loaded model: other models in the process keep transformers' own. Before they are used, each is
compiled and compared with transformers' own code on the model's own modules; if one fails, the model gets none.

For the backward pass they save: RMSNorm its input (shared with the residual stream) and 1 / RMS (float32, one number a
token); rotary positions only cosines and sines; SwiGLU the outputs of gate and up, but not silu(gate).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from finetune_api.methods.reft import ReftPolicy
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Engine, MethodType
from finetune_api.spec.training import Kernels
from transformers import PreTrainedModel

from finetune_trainer.errors import first_line
from finetune_trainer.hardware.device import Device

TORCH = "torch"
MODEL_TYPES = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Those for which tests compare the kernels with transformers' own code."""
_DEVICES = frozenset({"cuda"})
_ROTATE = "apply_rotary_pos_emb"
"""transformers' function that rotates queries and keys: a global of each architecture's module."""
_plain_rotations: dict[str, Callable[..., Any]] = {}
"""transformers' own functions by module, where a kernel is in their place."""
_MANY_ROWS, _NARROW = 4096 * 8, 256
"""From this many rows on norms that are this narrow, those of heads, are computed by another kernel of Liger's."""
_TOLERANCE = {torch.bfloat16: 0.02, torch.float32: 1e-4}


def use_kernels(model: PreTrainedModel, spec: FineTuneJobSpec, device: Device, note: Callable[[str], None]) -> str:
    """Give a freshly loaded model the kernels of `spec.training.kernels`.

    Args:
        model: the model on its device, without an adapter.
        spec: the job's spec.
        device: the model's device.
        note: receives one sentence if the model gets other kernels than a GPU should have.

    Returns:
        The kernels that it has: `torch`, or Liger's with their version.
    """
    take_back(model)
    if spec.training.kernels is Kernels.TORCH or spec.engine is Engine.UNSLOTH or not device.is_gpu:
        return TORCH
    reason = _reason_against(model, device)
    if reason is None:
        try:
            apply_kernels(model, keeps_outputs=_is_dora(spec))
        except Exception as error:
            # Whatever Liger or Triton raises: transformers' own code computes the same.
            reason = f"{type(error).__name__}: {first_line(error)}"
    if reason is not None:
        note(f"RMSNorm, rotary positions and SwiGLU are computed by torch, not by Liger's kernels: {reason}")
        return TORCH
    return f"liger-kernel {version('liger-kernel')}"


def _reason_against(model: PreTrainedModel, device: Device) -> str | None:
    if device.dtype is not torch.bfloat16:
        return "the model computes in float32"
    if model.config.model_type not in MODEL_TYPES:
        return f"models of type {model.config.model_type} were not tried with them"
    try:
        version("liger-kernel")
    except PackageNotFoundError:
        return "liger-kernel is not installed"
    return None


def _is_dora(spec: FineTuneJobSpec) -> bool:
    reft = spec.method.reft
    return spec.method.type is MethodType.DORA or (reft is not None and reft.policy is ReftPolicy.DORA)


def apply_kernels(model: PreTrainedModel, keeps_outputs: bool) -> None:
    """Give one model Liger's kernels, after a comparison with its own code; on any failure it stays as it was.

    Args:
        model: of a type in `MODEL_TYPES`.
        keeps_outputs: whether an adapter keeps outputs of its layers for the backward pass, as DoRA does. Liger rotates
            queries and keys in place and writes SwiGLU's gradients over its inputs, which are such outputs; so only
            RMSNorm is replaced.

    Raises:
        ImportError: liger-kernel cannot be imported here.
        Exception: a kernel can't be compiled; whatever Triton raises.
        ArithmeticError: a kernel computes something else than the model's own code.
    """
    take_back(model)
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    modules = [*model.modules()]
    own = [set(vars(module)) for module in modules]
    namespace = vars(sys.modules[type(model).__module__])
    names: dict[str, Any] = dict(namespace)
    try:
        _apply_liger_kernel_to_instance(
            model=model, rms_norm=True, rope=not keeps_outputs, swiglu=not keeps_outputs, geglu=not keeps_outputs,
            cross_entropy=False, fused_linear_cross_entropy=False)
        rotate: Any = namespace.get(_ROTATE)
        # Liger also replaces classes, of which other models in this process would be made.
        namespace.update(names)
        _compare_modules((module for module, before in zip(modules, own, strict=True)
                          if "forward" in vars(module).keys() - before), model.config.hidden_size)
        if rotate is not names.get(_ROTATE):
            plain = _plain_rotations[type(model).__module__] = names[_ROTATE]
            _compare_rotation(rotate, plain, model)
            namespace[_ROTATE] = _on_gpu(rotate, plain)
    except BaseException:
        namespace.update(names)
        for module, before in zip(modules, own, strict=True):
            for name in vars(module).keys() - before:
                del vars(module)[name]
        raise


def take_back(model: PreTrainedModel) -> None:
    """Let models of this architecture rotate as transformers does, whatever an earlier job of this process did."""
    module = type(model).__module__
    if module in _plain_rotations:
        vars(sys.modules[module])[_ROTATE] = _plain_rotations.pop(module)


def _on_gpu(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel on a GPU, and transformers' own function for other models of the process on the CPU."""
    @wraps(plain)
    def either(q: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (kernel if q.device.type in _DEVICES else plain)(q, *args, **kwargs)

    return either


def _compare_modules(modules: Iterable[Any], hidden: int) -> None:
    """Compare one module of each kind with what its class computes; `hidden` is the width of the model.

    Raises:
        ArithmeticError: output or gradient differ by more than rounding.
    """
    seen = set()
    for module in modules:
        weight = getattr(module, "weight", None)
        width = hidden if weight is None else len(weight)
        if (type(module), width) not in seen:
            seen.add((type(module), width))
            some = next(module.parameters())
            dtype = some.dtype if some.is_floating_point() else torch.bfloat16
            for rows in (8, _MANY_ROWS) if width <= _NARROW else (8,):
                x = _numbers((1, rows, width), some.device, dtype)
                _compare(type(module).__name__, lambda x, module=module: (module(x),),
                         lambda x, module=module: (type(module).forward(module, x),), (x,))


def _compare_rotation(kernel: Callable[..., Any], plain: Callable[..., Any], model: PreTrainedModel) -> None:
    """Compare the rotation of queries and keys; errors as in `_compare_modules`."""
    config, tokens = model.config, 8
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = (_numbers((1, tokens, heads, width), model.device, model.dtype).transpose(1, 2)
                     for heads in (config.num_attention_heads, config.num_key_value_heads))
    angles = _numbers((1, tokens, width // 2), model.device, torch.float32).repeat(1, 1, 2)
    cosines, sines = angles.cos().to(model.dtype), angles.sin().to(model.dtype)
    # The kernel writes over its arguments.
    _compare(_ROTATE, lambda q, k: kernel(q.clone(), k.clone(), cosines, sines),
             lambda q, k: plain(q, k, cosines, sines), (queries, keys))


def _numbers(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)


def _compare(name: str, kernel: Callable[..., tuple[torch.Tensor, ...]],
             plain: Callable[..., tuple[torch.Tensor, ...]], inputs: tuple[torch.Tensor, ...]) -> None:
    found = []
    for function in (kernel, plain):
        given = [tensor.detach().requires_grad_() for tensor in inputs]
        outputs = function(*given)
        # A kernel may write over the gradient that it gets.
        gradients = torch.autograd.grad(outputs, given, [torch.ones_like(output) for output in outputs])
        found.append([*outputs, *gradients])
    for mine, wanted in ((mine.detach().float(), wanted.detach()) for mine, wanted in zip(*found, strict=True)):
        error = float((mine - wanted.float()).norm() / wanted.float().norm())
        if not error <= _TOLERANCE[wanted.dtype]:
            raise ArithmeticError(f"the kernel of {name} is off by {error:.2g} of what torch computes")
