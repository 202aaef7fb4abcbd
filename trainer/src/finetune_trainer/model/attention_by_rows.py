"""Attention by rows: rows that share one line attend each to itself, without a mask, padding or copied keys and values.

It is registered with transformers' attention interface and used only inside `attending_by_rows`. Outside, a model has
the attention that it was loaded with, so generation and evaluation do not change. Like FlashAttention in transformers,
it gets no mask: the batch says where rows begin (`row_edges`), and a layer passes its sliding window.

On a GPU torch's `varlen_attn` computes it (FlashAttention-2: Dao, 2023, arXiv:2307.08691). For the backward pass it
saves the query, the keys and values with their own number of heads, the output, and one float32 per token and head
(the log of the softmax's sum). On a CPU each row goes through torch's scaled dot-product attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "by_rows"
EDGES, LONGEST = "cu_seq_lens_q", "max_length_q"
"""What a batch says of its rows, in transformers' words for FlashAttention."""

_WINDOW = "sliding_window"
_UNSUPPORTED = {"softcap": "caps its scores", "s_aux": "has attention sinks", "position_bias": "biases its scores"}
_KERNEL_TYPES = (torch.bfloat16, torch.float16)
_KERNEL_CAPABILITY, _KERNEL_HEAD_SIZE, _KERNEL_HEAD_STEP = (8, 0), 256, 8
# torch 2.11 has grouped heads without the word.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class AttentionCall(NamedTuple):
    """What decides whether a call of a layer's attention can go by rows.

    Attributes:
        key_size: numbers per head of query and key.
        value_size: numbers per head of the value.
        dtype: the type that attention is computed in.
        capability: the compute capability of the GPU; None on a CPU.
        dropout: the probability that a score is dropped.
        causal: whether a token attends only to tokens before it.
        options: the other arguments of transformers' attention interface.
    """

    key_size: int
    value_size: int
    dtype: torch.dtype
    capability: tuple[int, int] | None
    dropout: float
    causal: bool
    options: Mapping[str, Any]


def call_refused(call: AttentionCall) -> str | None:
    """Why a layer's attention cannot go by rows, as the end of a sentence about the model; None if it can."""
    if call.options.get(EDGES) is None:
        return "does not tell its attention where rows begin"
    for option, words in _UNSUPPORTED.items():
        if call.options.get(option) is not None:
            return words
    if call.dropout:
        return "drops attention scores at random"
    if not call.causal:
        return "also attends to later tokens"
    return _kernel_refused(call) if call.capability else None


def _kernel_refused(call: AttentionCall) -> str | None:
    """Why the kernel on the GPU cannot compute a call; None if it can."""
    assert call.capability is not None
    if call.capability < _KERNEL_CAPABILITY:
        return "runs on a GPU older than Ampere"
    if call.dtype not in _KERNEL_TYPES:
        return f"computes attention in {str(call.dtype).removeprefix('torch.')}"
    if call.value_size != call.key_size:
        return f"has heads of {call.key_size} numbers for keys and {call.value_size} for values"
    if call.key_size % _KERNEL_HEAD_STEP or call.key_size > _KERNEL_HEAD_SIZE:
        return f"has heads of {call.key_size} numbers"
    return None


def model_refused(model: PreTrainedModel) -> str | None:
    """Why a model cannot attend by rows, as the end of a sentence about the model, from its class and configuration.

    None if nothing speaks against it; then a forward pass tells the rest: a call that is refused raises
    `NotImplementedError` with the reason.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"has the attention implementation {config._attn_implementation}"
    if not model._supports_attention_backend or not model._supports_flash_attn:
        return "has attention of its own, which needs a mask"
    return None


def row_edges(lengths: Sequence[int]) -> dict[str, Any]:
    """What a batch of one line says of its rows: (rows + 1) edges of int32, from 0, and the length of the longest row.

    Args:
        lengths: the tokens of each row, in the order of the line.
    """
    return {EDGES: torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32), LONGEST: max(lengths)}


@contextmanager
def attending_by_rows(model: Any) -> Iterator[None]:
    """Let a model attend by rows, in forward passes and in the backward passes that compute them again."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention_by_rows(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
                       **options: Any) -> tuple[Tensor, None]:
    """Attention in transformers' interface; the mask is ignored, and none is made.

    Args:
        module: the layer.
        query: (1, heads, tokens, head size).
        key: (1, key and value heads, tokens, head size).
        value: as the key.
        attention_mask: ignored.
        options: of transformers' interface; scores are multiplied by `scaling`.

    Returns:
        (1, tokens, heads, head size), and no weights.

    Raises:
        NotImplementedError: the call cannot go by rows.
    """
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        # autocast does not know the kernel.
        query, key, value = (one.to(torch.get_autocast_dtype("cuda")) for one in (query, key, value))
    causal = options.get("is_causal")
    capability = torch.cuda.get_device_capability(query.device) if query.is_cuda else None
    reason = call_refused(AttentionCall(
        query.shape[-1], value.shape[-1], query.dtype, capability, options.get("dropout") or 0.0,
        getattr(module, "is_causal", True) if causal is None else bool(causal), options))
    if reason:
        raise NotImplementedError(reason)
    rows = _Rows(options[EDGES], options.get(LONGEST) or query.shape[2], options.get(_WINDOW))
    attend = _in_one_kernel if query.is_cuda else _row_after_row
    return attend(query, key, value, rows, options.get("scaling")), None


class _Rows(NamedTuple):
    edges: Tensor
    longest: int
    window: int | None


def _in_one_kernel(query: Tensor, key: Tensor, value: Tensor, rows: _Rows, scaling: float | None) -> Tensor:
    # The kernel counts the tokens before a token, transformers also the token itself.
    window = (rows.window - 1 if rows.window else -1, 0)
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    output: Any = varlen_attn(q, k, v, rows.edges, rows.edges, rows.longest, rows.longest, scale=scaling,
                              window_size=window, **_GROUPED)
    return output.unsqueeze(0)


def _row_after_row(query: Tensor, key: Tensor, value: Tensor, rows: _Rows, scaling: float | None) -> Tensor:
    lengths = rows.edges.diff().tolist()
    outputs = []
    for q, k, v in zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True):
        band = _band(q.shape[2], rows.window, q.device) if rows.window and rows.window < q.shape[2] else None
        outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=band, is_causal=band is None, scale=scaling,
                                                    enable_gqa=True))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _band(tokens: int, window: int, device: torch.device) -> Tensor:
    """Which tokens a token of a row attends to: itself and the `window - 1` before it."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril().triu(1 - window)


AttentionInterface.register(NAME, _attention_by_rows)
