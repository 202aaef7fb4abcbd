"""DoRA at the price of LoRA: PEFT's adapter and format, with weight norms that are kept between optimizer steps.

Liu et al., 2024 (arXiv:2402.09353): the output is m / ‖W + sBA‖ · (Wx + sBAx), where the norm, one for each row, counts
as a constant in the gradient (§ 4.3). PEFT builds the dense W + sBA for its norm in every pass. But

    ‖W + sBA‖² = ‖W‖² + 2s·(W·Aᵀ)∘B + s²·(B·(A·Aᵀ))∘B   summed over each row,

where ‖W‖² never changes and the rest only when the weights do: once for all the micro-batches of an optimizer step, for
their recomputation under gradient checkpointing, and for a whole evaluation. Training in float32, the first pass of a
step takes A's rows through the frozen layer behind its tokens: W·Aᵀ then costs no dequantization of its own.

What changes weights says so: optimizers through torch's hook for all of them, loading, casting and moving through the
layer that keeps the norms, and code that writes into weights by `weights_changed`. A tensor's version would not tell:
fused and bitsandbytes optimizers leave it as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from torch.nn.functional import linear
from torch.optim.optimizer import register_optimizer_step_post_hook

_CHUNK = 2**20
"""Weights that are made float32 at a time: 4 MiB, which stay in the processor's cache and need no fresh memory."""

_PEFT_FORWARD = ("module", "active_adapter", "x", "result", "kwargs")
_PEFT_LAYER = ("self", "fan_in_fan_out")

_generation = 0


def weights_changed(*_: Any) -> None:
    """Say that trained weights have other values now: every norm that is kept is out of date."""
    global _generation
    _generation += 1


register_optimizer_step_post_hook(weights_changed)


def keep_norms(model: PeftModel, adapter: str = "default") -> int:
    """Let the DoRA layers of a model keep their norms; layers that this can't be done for stay as PEFT made them.

    Returns:
        How many layers keep their norms: 0 where PEFT is not the one that this was written for.
    """
    if not peft_is_known():
        return 0
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _fits(module, adapter)]
    for module in layers:
        module.lora_magnitude_vector[adapter] = KeptNorms(module.lora_magnitude_vector[adapter])
        module.lora_variant[adapter] = FastDora()
        if (type(module.get_base_layer()) in (torch.nn.Linear, Linear4bit)
                and _before_layer not in module._forward_pre_hooks.values()):
            module.register_forward_pre_hook(_before_layer)
    return len(layers)


@torch.no_grad()
def start_at_norms(model: PeftModel, adapter: str = "default") -> None:
    """Let the magnitudes of layers that keep their norms be these norms, so that a fresh adapter changes nothing.

    PEFT works its start out in the type of the base: in bfloat16 that is up to 0.4 % beside.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and type(module.lora_variant.get(adapter)) is FastDora:
            layer = module.lora_magnitude_vector[adapter]
            layer.weight.copy_(layer.norms(module, adapter))


def peft_is_known() -> bool:
    """Whether PEFT's private parts have the shape that this stands on."""
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


class KeptNorms(DoraLinearLayer):
    """PEFT's layer of magnitudes, which also keeps ‖W + sBA‖ until the weights change."""

    def __init__(self, layer: DoraLinearLayer) -> None:
        super().__init__(layer.fan_in_fan_out)
        self.weight = layer.weight
        self.forget()

    def forget(self) -> None:
        """Everything, that of the frozen weights included."""
        self._squares: torch.Tensor | None = None
        self._norms: torch.Tensor | None = None
        self._made_at = (-1, False)
        self.invertible = True

    def are_current(self, training: bool) -> bool:
        """Whether the norms are those of the weights that are there now.

        Those of a training pass and others are not mixed: they may differ in their last bit, and a resumed run, which
        repeats no evaluation, has to come to the same bytes.
        """
        return self._norms is not None and self._made_at == (_generation, training)

    def norms(self, module: LoraLayer, adapter: str, products: torch.Tensor | None = None) -> torch.Tensor:
        """‖W + sBA‖ of each row, in float32: one number for each output.

        Args:
            products: A·Wᵀ (rank × outputs), where a pass through the frozen layer has made it.
        """
        if self._norms is None or not self.are_current(module.training):
            with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
                self._norms = self._make(module.get_base_layer(), module.lora_A[adapter].weight.float(),
                                         module.lora_B[adapter].weight.float(), module.scaling[adapter], products)
                self.invertible = bool(self.weight.all())
            self._made_at = (_generation, module.training)
        return self._norms

    def _make(self, base: Any, a: torch.Tensor, b: torch.Tensor, scaling: float, products: torch.Tensor | None
              ) -> torch.Tensor:
        if products is None or self._squares is None:
            parts, squares = [], []
            for rows in _float_rows(base):
                if products is None:
                    parts.append(a @ rows.T)
                if self._squares is None:
                    squares.append(torch.linalg.vector_norm(rows, dim=1).square())
            products = torch.cat(parts, dim=1) if products is None else products
            self._squares = torch.cat(squares) if self._squares is None else self._squares
        added = (b * (2 * scaling * products.T + scaling**2 * (b @ (a @ a.T)))).sum(1)
        return (self._squares + added).clamp_(min=0).sqrt_()

    def _apply(self, fn: Any, recurse: bool = True) -> KeptNorms:
        # Called for every move and cast of the model that it is a part of, which may round what it was made from.
        self.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # Called whatever part of the state is loaded, base weights included.
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)


def _float_rows(base: Any) -> Iterator[torch.Tensor]:
    """The frozen weight in float32, some rows at a time."""
    weight = base.weight
    state = getattr(weight, "quant_state", None)
    height, width = base.out_features, base.in_features
    some = max(1, _CHUNK // width)
    if weight.dtype is torch.float32:
        yield weight.detach()
    elif state is not None and width % state.blocksize == 0 and width % 2 == 0:
        scales = state.absmax
        if state.nested:
            scales = dequantize_blockwise(scales, state.state2) + state.offset
        packed, scales = weight.data.view(torch.uint8).view(height, width // 2), scales.view(height, -1)
        for start in range(0, height, some):
            part = scales[start:start + some].float().reshape(-1)
            shape = torch.Size((min(some, height - start), width))
            yield dequantize_4bit(packed[start:start + some].reshape(-1, 1), QuantState(
                part, shape=shape, code=state.code, blocksize=state.blocksize, quant_type=state.quant_type,
                dtype=state.dtype)).float()
    else:
        whole = dequantize_module_weight(base).detach()
        for start in range(0, height, some):
            yield whole[start:start + some].float()


def _is_plain(module: LoraLayer, adapter: str | None) -> bool:
    """Whether a pass needs nothing that only PEFT's own forward has."""
    return ((isinstance(module.lora_dropout[adapter], torch.nn.Identity) or not module.training)
            and list(module.active_adapters) == [adapter])


def _before_layer(module: LoraLayer, inputs: tuple[torch.Tensor, ...]) -> None:
    """Before a layer: where norms are needed and float32 makes them exact, its frozen part gets A's rows as well.

    The hook on the frozen part lasts for one pass: an adapter that is taken out of a model leaves nothing behind.
    """
    adapter = module.active_adapters[0] if module.active_adapters else None
    if adapter not in module.lora_magnitude_vector:
        return
    layer = module.lora_magnitude_vector[adapter]
    if (type(layer) is KeptNorms and not layer.are_current(True) and module.training and torch.is_grad_enabled()
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
    """PEFT's DoRA, whose forward takes the norms that its layer keeps; merging and all else is PEFT's."""

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
                    result, x, module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight,
                    layer.weight, norms, module.scaling[active_adapter], dtype)
                return output
        peft: torch.Tensor = DoraLinearVariant.forward(module, active_adapter=active_adapter, x=x, result=result,
                                                       **kwargs)
        return peft

    @staticmethod
    def unmerge(module: LoraLayer, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """As PEFT does; the base weight comes back rounded, so what was made from it is forgotten."""
        module.lora_magnitude_vector[active_adapter].forget()
        weight: torch.Tensor = DoraLinearVariant.unmerge(module, active_adapter, orig_weight)
        return weight


class _Scaled(torch.autograd.Function):
    """m / norm · (Wx + sBAx) from Wx, which is overwritten where it can be.

    For the gradient of m only the output is kept, which the next operation often keeps anyway: the rest of it is
    output / m, so m must not be 0. Rows of Wx behind those of x were appended, and have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, result: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor,
                magnitude: torch.Tensor, norms: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
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
        need_result, need_x, need_a, need_b, need_magnitude = ctx.needs_input_grad[:5]
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
        return of_result, of_x, of_a, of_b, of_magnitude, None, None, None
