"""The sizes of a decoder-only model, read from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BIASED_ATTENTION = {"qwen2"}
_HEAD_NORMS = {"qwen3", "gemma3_text"}
_FOUR_NORMS = {"gemma2", "gemma3_text"}
_FUSED = {"phi3"}
_TIED = {"gemma", "gemma2", "gemma3_text"}
_WITHOUT_KERNELS = {"mixtral", "smollm3"}
_KNOWN = {"llama", "mistral", "mixtral", "smollm3", "gemma", *_BIASED_ATTENTION, *_HEAD_NORMS, *_FOUR_NORMS, *_FUSED}


class UnknownArchitecture(ValueError):
    """The configuration of a model does not give its sizes."""


@dataclass(frozen=True)
class Linear:
    """One linear layer of a block.

    Attributes:
        name: the last part of its name.
        inputs: width of what goes in.
        outputs: width of what comes out.
        bias: whether it has one.
        source: layers with the same source read the same tensor.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool
    source: str

    @property
    def weights(self) -> int:
        """Numbers of its matrix."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Numbers of its matrix and bias."""
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True)
class Architecture:
    """A decoder-only model with rotary positions, RMS norms and a gated feed-forward part.

    Attributes:
        hidden: width of the residual stream.
        layers: number of blocks.
        attention: width of all query heads together.
        key_values: width of all key heads together, which grouped-query attention makes smaller.
        intermediate: width of the feed-forward part.
        vocabulary: number of tokens.
        tied: whether the head is the embedding.
        linears: the linear layers of one block.
        experts: numbers of a block's experts, which are no linear layers; 0 without.
        norms: numbers of a block's norms.
        hidden_norms: norms of a block over the residual stream's width.
        head_norms: whether queries and keys are normalized too.
        head_size: width of one head.
        softcap: whether attention's scores are capped.
        has_kernels: whether there are Triton kernels for the norms and the feed-forward part of its family.
    """

    hidden: int
    layers: int
    attention: int
    key_values: int
    intermediate: int
    vocabulary: int
    tied: bool
    linears: tuple[Linear, ...]
    experts: int
    norms: int
    hidden_norms: int
    head_norms: bool
    head_size: int
    softcap: bool
    has_kernels: bool

    @property
    def block_weights(self) -> int:
        """Numbers in the matrices of all blocks: what a quantization stores in fewer bits."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def block_parameters(self) -> int:
        """All numbers of one block."""
        return sum(linear.parameters for linear in self.linears) + self.experts + self.norms

    @property
    def parameters(self) -> int:
        """All numbers of the model."""
        outside = self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.block_parameters + outside


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The sizes that a `config.json` gives.

    Raises:
        UnknownArchitecture: it is of a family that is not known here, or lacks a size.
    """
    config = config.get("text_config") or config
    family = str(config.get("model_type", ""))
    if family not in _KNOWN:
        raise UnknownArchitecture(f"model_type {family or '(none)'}: known are {', '.join(sorted(_KNOWN))}")
    try:
        hidden, layers, heads = (int(config[key]) for key in
                                 ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        intermediate, vocabulary = int(config["intermediate_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownArchitecture(f"config.json does not tell {error}") from error
    size = int(config.get("head_dim") or hidden // heads)
    attention, key_values = heads * size, int(config.get("num_key_value_heads") or heads) * size
    in_bias = bool(config.get("attention_bias", family in _BIASED_ATTENTION))
    out_bias = in_bias and family not in _BIASED_ATTENTION
    mlp_bias = bool(config.get("mlp_bias", False))
    experts = int(config.get("num_local_experts") or 0)
    linears = _attention(hidden, attention, key_values, in_bias, out_bias, family)
    if not experts:
        linears += _feed_forward(hidden, intermediate, mlp_bias, family)
    hidden_norms, head_norms = 4 if family in _FOUR_NORMS else 2, family in _HEAD_NORMS
    return Architecture(
        hidden=hidden, layers=layers, attention=attention, key_values=key_values, intermediate=intermediate,
        vocabulary=vocabulary, tied=bool(config.get("tie_word_embeddings", family in _TIED)), linears=linears,
        experts=experts * hidden * (3 * intermediate + 1),
        norms=hidden_norms * hidden + (2 * size if head_norms else 0), hidden_norms=hidden_norms,
        head_norms=head_norms, head_size=size, softcap=bool(config.get("attn_logit_softcapping")),
        has_kernels=family not in _WITHOUT_KERNELS,
    )


def _attention(hidden: int, attention: int, key_values: int, in_bias: bool, out_bias: bool, family: str
               ) -> tuple[Linear, ...]:
    last = Linear("o_proj", attention, hidden, out_bias, "attention")
    if family in _FUSED:
        return (Linear("qkv_proj", hidden, attention + 2 * key_values, in_bias, "block"), last)
    return (Linear("q_proj", hidden, attention, in_bias, "block"),
            Linear("k_proj", hidden, key_values, in_bias, "block"),
            Linear("v_proj", hidden, key_values, in_bias, "block"), last)


def _feed_forward(hidden: int, intermediate: int, bias: bool, family: str) -> tuple[Linear, ...]:
    last = Linear("down_proj", intermediate, hidden, bias, "product")
    if family in _FUSED:
        return (Linear("gate_up_proj", hidden, 2 * intermediate, bias, "middle"), last)
    return (Linear("gate_proj", hidden, intermediate, bias, "middle"),
            Linear("up_proj", hidden, intermediate, bias, "middle"), last)
