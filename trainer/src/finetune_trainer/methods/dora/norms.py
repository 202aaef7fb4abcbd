"""The weight norms ‖W + sBA‖ of DoRA, cached between optimizer steps.

    ‖W + sBA‖² = ‖W‖² + 2s·(W·Aᵀ)∘B + s²·(B·(A·Aᵀ))∘B   summed over each row,

where ‖W‖² never changes, and the other terms change only when the trained weights do. So the norms are computed once
for all micro-batches of an optimizer step, for their recomputation under gradient checkpointing, and for a whole
evaluation.

A cache is dropped when weights change: after an optimizer's step (`WeightsVersion`), when a state is loaded or the
module is moved or cast (`CachedNorms`), and when other code calls `trained_model.weights_changed`. A tensor's own
version counter is no help: fused and bitsandbytes optimizers do not advance it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch.optim.optimizer import register_optimizer_step_post_hook

_CHUNK = {"cpu": 2**20, "cuda": 2**24}
"""Weights that are cast to float32 at a time, by the type of device. On a CPU 4 MiB: they stay in its cache and need no
fresh memory. On a GPU 64 MiB: each part costs several launches of kernels."""


class WeightsVersion:
    """Counts the changes of one adapter's trained weights. The adapter's layers share it.

    From `follow_optimizers` to `unfollow_optimizers` every step of any torch optimizer counts as a change.
    """

    def __init__(self) -> None:
        self.number = 0
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightsVersion:
        # A copied model may be trained by an optimizer too: a change of either drops the caches of both.
        return self

    def advance(self, *_: Any) -> None:
        """The trained weights have new values."""
        self.number += 1

    def follow_optimizers(self) -> None:
        """Advance after every optimizer step."""
        self._hook = self._hook or register_optimizer_step_post_hook(self.advance)

    def unfollow_optimizers(self) -> None:
        """Training is over: leave no hook behind."""
        if self._hook:
            self._hook.remove()
            self._hook = None


class CachedNorms(DoraLinearLayer):
    """PEFT's layer of magnitudes, which also caches ‖W + sBA‖ until the weights change."""

    def __init__(self, layer: DoraLinearLayer, version: WeightsVersion) -> None:
        super().__init__(layer.fan_in_fan_out)
        self.weight = layer.weight
        self._version = version
        self.drop()

    def drop(self) -> None:
        """Drop all cached values, those of the frozen weights included."""
        self._squares: torch.Tensor | None = None
        self._norms: torch.Tensor | None = None
        self._computed_at = (-1, False)

    def trained_weights_changed(self) -> None:
        """Drop the norms; ‖W‖² of the frozen weights stays (`trained_model.CachesTrainedWeights`)."""
        self._version.advance()

    def are_current(self, training: bool) -> bool:
        """Whether the cached norms are those of the present weights.

        Norms of a training pass are not used in evaluation, nor the reverse: they may differ in their last bit, and a
        resumed run, which repeats no evaluation, has to produce the same bytes.
        """
        return self._norms is not None and self._computed_at == (self._version.number, training)

    def norms(self, module: LoraLayer, adapter: str, products: torch.Tensor | None = None) -> torch.Tensor:
        """‖W + sBA‖ of each row, in float32: (outputs,).

        Args:
            module: the layer that these magnitudes belong to.
            adapter: the adapter's name.
            products: A·Wᵀ (rank × outputs), if a pass through the frozen layer has computed it.
        """
        if self._norms is None or not self.are_current(module.training):
            with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
                self._norms = self._compute(module.get_base_layer(), module.lora_A[adapter].weight.float(),
                                            module.lora_B[adapter].weight.float(), module.scaling[adapter], products)
            self._computed_at = (self._version.number, module.training)
        return self._norms

    def _compute(self, base: Any, a: torch.Tensor, b: torch.Tensor, scaling: float, products: torch.Tensor | None
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

    def _apply(self, fn: Any, recurse: bool = True) -> CachedNorms:
        # Called for every move and cast of the whole model, which may round the weights.
        self.drop()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # Called whichever part of the state is loaded, base weights included.
        self.drop()
        super()._load_from_state_dict(*args, **kwargs)


def _float_rows(base: Any) -> Iterator[torch.Tensor]:
    """The frozen weight in float32, `_CHUNK` numbers at a time: (rows, inputs) each."""
    weight = base.weight
    state = getattr(weight, "quant_state", None)
    height, width = base.out_features, base.in_features
    some = max(1, _CHUNK[weight.device.type] // width)
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
