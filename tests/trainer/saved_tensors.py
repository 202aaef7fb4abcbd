"""Counts what a forward pass of the trainer's own code saves for its backward pass, as a GPU would save it.

A CPU runs the same Python under the same autocast, and saves the same tensors, with four exceptions that are replaced
here by what a GPU's kernels save (`as_on_a_gpu`):

- attention: the flash kernel, also for rows that share a line, saves queries, keys, values (of grouped heads once), its
  output, and the logarithm of each query's sum. A CPU's kernel may save copies and a float32 sum of another shape.
- nf4: PEFT asks whether CUDA's autocast is on, to decide whether an input has to be cast.
- dropout: a GPU saves a mask of booleans, a CPU one of numbers.
- int8: the kernel of a GPU refers to its input until the backward pass, outside of what autograd counts; the one of a
  CPU dequantizes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import bitsandbytes
import torch
from bitsandbytes.nn import modules
from finetune_trainer.model import attention_by_rows
from transformers.models.llama import modeling_llama


class SavedTensors:
    """Counts what autograd saves inside `counted` and still holds at the end, each storage once."""

    def __init__(self) -> None:
        self._saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Inside, saved tensors are counted."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor):
            yield

    def bytes_of_tokens(self, tokens: int) -> int:
        """The bytes of all storages with a whole number of values for each token: no weights, and no other state.

        Args:
            tokens: a prime number, which divides the size of no weight.
        """
        storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage() for one in self._saved}
        return sum(storage.nbytes() for storage in storages.values() if storage.nbytes() % tokens == 0)

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        saved = _Saved(tensor)
        self._saved.add(saved)
        return saved


class _Saved:
    """A saved tensor. It lives as long as the graph that it belongs to."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class _FlashAttention(torch.autograd.Function):
    """What the flash kernel saves; its backward pass is never called."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor
                ) -> torch.Tensor:
        # The kernel writes (lines, tokens, heads, size), and gives a view of it.
        output = output.transpose(1, 2).contiguous().transpose(1, 2)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output


class _Int8(torch.autograd.Function):
    """What the int8 kernel refers to."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return output


class _RmsNorm(torch.autograd.Function):
    """What Liger's RMSNorm saves: its input as it is."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return output


class _SwiGlu(torch.autograd.Function):
    """What Liger's SwiGLU saves: gate and up projection, and no activation of the gate."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate) * up


@contextmanager
def with_kernels(activations: bool) -> Iterator[None]:
    """Inside, Llama's norms save what Liger's kernels save, and so do the activations of its feed-forward part."""
    norm = modeling_llama.LlamaRMSNorm.forward

    def normed(self: Any, states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output = norm(self, states)
        return _RmsNorm.apply(states, self.weight, output)

    def feed_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(_SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))

    with ExitStack() as stack:
        stack.enter_context(patch.object(modeling_llama.LlamaRMSNorm, "forward", normed))
        if activations:
            stack.enter_context(patch.object(modeling_llama.LlamaMLP, "forward", feed_forward))
        yield


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside, the kernels that differ between CPU and GPU save what a GPU's kernels save."""

    attend, matmul = torch.nn.functional.scaled_dot_product_attention, bitsandbytes.matmul
    asks, row_after_row = torch.is_autocast_enabled, attention_by_rows._row_after_row

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **words: Any) -> torch.Tensor:
        # Autocast casts what goes into this operator.
        query, key, value = (one.to(torch.get_autocast_dtype("cpu")) for one in (query, key, value))
        with torch.no_grad():
            output = attend(query, key, value, **words)
        return _FlashAttention.apply(query, key, value, output)

    def by_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rows: Any) -> torch.Tensor:
        with torch.no_grad(), patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
            output = row_after_row(query, key, value, *rows)
        return _FlashAttention.apply(query, key, value, output.transpose(1, 2)).transpose(1, 2)

    def int8(x: torch.Tensor, *arguments: Any, **words: Any) -> torch.Tensor:
        with torch.no_grad():
            output = matmul(x, *arguments, **words)
        return _Int8.apply(x, output)

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(x, p, training)[0]

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.nn.functional, "dropout", dropout))
        stack.enter_context(patch.object(torch.nn.functional, "scaled_dot_product_attention", attention))
        stack.enter_context(patch.object(attention_by_rows, "_row_after_row", by_rows))
        stack.enter_context(patch.object(modules.bnb, "matmul", int8))
        stack.enter_context(patch.object(torch, "is_autocast_enabled", lambda device="cpu": asks(device)))
        yield
