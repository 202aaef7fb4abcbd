"""A frozen linear layer and its trained update as one operation: Wx + sBAx, and for DoRA m / ‖W + sBA‖ times that.

Hu et al., 2021 (arXiv:2106.09685); Liu et al., 2024 (arXiv:2402.09353). PEFT computes both products apart, and clones,
scales and adds tensors as large as the output; its backward pass adds two gradients of x. Here the low-rank products go
into the large ones while these are computed (addmm).

For the backward pass this saves, with n tokens, and in the type that the layer computes in if nothing else is said:
x (n × inputs, as the layer got it: layers that share x save it once), Ax (n × rank), the parameters A and B themselves;
for DoRA also the parameter m, the norms (outputs, float32), and the layer's output (n × outputs), which the operation
that follows often saves anyway. No weight is saved: W is a reference, and nf4 is dequantized again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from bitsandbytes import matmul_4bit
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch.nn.functional import linear

_FLOATS = 2**25
"""How many outputs are in memory in float32 at a time, where the layer computes in bfloat16: 128 MiB."""
_ALMOST_ZERO = 2.0**-60
"""What a magnitude of 0 counts as, because the gradient of m is computed from output / m."""


class RowScale(NamedTuple):
    """The factor m / ‖W + sBA‖ on each row, where the norms count as a constant in the gradient (§ 4.3).

    Attributes:
        magnitude: m, (outputs,), float32.
        norms: ‖W + sBA‖, (outputs,), float32; its argument is A·Wᵀ (rank × outputs), or None.
        wants_products: whether A·Wᵀ is computed for `norms`: one product with W then gives both.
    """

    magnitude: torch.Tensor
    norms: Callable[[torch.Tensor | None], torch.Tensor]
    wants_products: bool


class Layer(NamedTuple):
    """What has no gradient in a layer.

    Attributes:
        base: the frozen layer: `torch.nn.Linear`, or bitsandbytes' `Linear4bit`; a bias only without `scale`.
        scaling: s, the factor on BA.
        dtype: the type that the layer computes in.
        scale: DoRA's factor on the rows; None for LoRA.
        decodes: whether this pass writes a few tokens: then bitsandbytes' kernels for few rows of x matter more than
            outputs that are rounded once (`scaled_product`).
    """

    base: torch.nn.Linear
    scaling: float
    dtype: torch.dtype
    scale: RowScale | None = None
    decodes: bool = False

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """W times each of these rows, plus the bias: (rows, outputs)."""
        bias = None if self.base.bias is None else self.base.bias.to(self.dtype)
        if isinstance(self.base, Linear4bit):
            packed: Any = self.base.weight
            product: torch.Tensor = matmul_4bit(rows, packed, quant_state=packed.quant_state, bias=bias)
            return product
        return linear(rows, self.base.weight.to(self.dtype), bias)

    def weight(self) -> torch.Tensor:
        """W, dequantized: (outputs, inputs)."""
        weight: Any = self.base.weight
        if isinstance(self.base, Linear4bit):
            weight = dequantize_4bit(weight.data.view(-1, 1), weight.quant_state)
        whole: torch.Tensor = weight.to(self.dtype)
        return whole

    def scaled_product(self, rows: torch.Tensor, low: torch.Tensor, b: torch.Tensor, factor: torch.Tensor
                       ) -> torch.Tensor:
        """factor · (W·rows + s·B·low) in bfloat16, rounded once: (rows, outputs).

        A product that is in bfloat16 already, times 1.001, is rounded back to what it was: bfloat16 has steps of 0.4 %
        to 0.8 %, and a magnitude would move by half of one before any output did.
        """
        weight, b = self.weight().T, b.T
        output = rows.new_empty(len(rows), weight.shape[1])
        for start in range(0, len(rows), some := max(1, _FLOATS // weight.shape[1])):
            part = slice(start, start + some)
            whole = _float32_product(rows[part], weight)
            _add_product(whole, low[part], b, self.scaling)
            torch.mul(whole, factor, out=output[part])
        return output


def _float32_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(rows, weight, out_dtype=torch.float32) if rows.is_cuda else rows.float() @ weight.float()


def _add_product(to: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, scaling: float) -> None:
    if rows.is_cuda:
        torch.addmm(to, rows, weight, out_dtype=torch.float32, alpha=scaling, out=to)
    else:
        to.addmm_(rows.float(), weight.float(), alpha=scaling)


def _nowhere_zero(magnitude: torch.Tensor) -> torch.Tensor:
    return magnitude.where(magnitude != 0, _ALMOST_ZERO)


def fused_linear(layer: Layer, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Wx + sBAx, times the rows' factors for DoRA.

    Args:
        layer: the frozen layer, and what else has no gradient.
        x: the input, (..., inputs).
        a: A, (rank, inputs).
        b: B, (outputs, rank).

    Returns:
        (..., outputs), in the layer's type.
    """
    output: torch.Tensor = _FusedLinear.apply(layer, x, a, b, layer.scale.magnitude if layer.scale else None)
    # Here, because autograd lets nobody write into a view that an operation of one's own returns.
    return output.view(*x.shape[:-1], output.shape[-1])


class _FusedLinear(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, layer: Layer, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor,
                magnitude: torch.Tensor | None) -> torch.Tensor:
        norms: Any = None
        with torch.autocast(x.device.type, enabled=False):
            rows, b_now = x.reshape(-1, x.shape[-1]).to(layer.dtype), b.to(layer.dtype)
            low = linear(rows, a.to(layer.dtype))
            if layer.scale is None or magnitude is None:
                output = layer.product(rows).addmm_(low, b_now.T, alpha=layer.scaling)
            elif layer.scale.wants_products:
                both = layer.product(torch.cat((rows, a.to(layer.dtype))))
                output, norms = both[:len(rows)], layer.scale.norms(both[len(rows):])
                output.addmm_(low, b_now.T, alpha=layer.scaling).mul_(_nowhere_zero(magnitude) / norms)
            else:
                norms = layer.scale.norms(None)
                factor = _nowhere_zero(magnitude) / norms
                if layer.dtype is torch.float32 or layer.decodes:
                    output = layer.product(rows).addmm_(low, b_now.T, alpha=layer.scaling).mul_(factor)
                else:
                    output = layer.scaled_product(rows, low, b_now, factor)
        ctx.layer = layer
        ctx.save_for_backward(x, a, b, low, *(() if magnitude is None else (magnitude, norms, output)))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, low, *scaled = ctx.saved_tensors
        layer, (_, need_x, need_a, need_b, need_magnitude) = ctx.layer, ctx.needs_input_grad
        of_x = of_a = of_b = of_magnitude = None
        with torch.autocast(x.device.type, enabled=False):
            rows = grad.to(layer.dtype)
            if scaled:
                magnitude, norms, output = scaled
                magnitude = _nowhere_zero(magnitude)
                if need_magnitude:
                    summed = (rows * output).sum(0, dtype=torch.float32)
                    of_magnitude = summed / magnitude
                rows = torch.mul(rows, magnitude / norms, out=torch.empty_like(rows))
            if need_b:
                of_b = (rows.T @ low).to(b.dtype).mul_(layer.scaling)
            of_low = rows @ b.to(layer.dtype)
            if need_a:
                of_a = (of_low.T @ x.reshape(-1, x.shape[-1]).to(layer.dtype)).to(a.dtype).mul_(layer.scaling)
            if need_x:
                of_x = (rows @ layer.weight()).addmm_(of_low, a.to(layer.dtype), alpha=layer.scaling)
                of_x = of_x.to(x.dtype).view(x.shape)
        return None, of_x, of_a, of_b, of_magnitude
