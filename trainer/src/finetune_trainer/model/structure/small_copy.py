"""A small copy of a model for rehearsals: the same architecture with random weights, a few layers of each kind, and few
heads. What fails with the copy fails with the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

Settings = dict[str, Any]

_MOST_NUMBERS = 40_000_000
"""The most weights of a copy: 160 MB in float32."""
_MOST_LAYERS = 8
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_NARROW = {"intermediate_size": 128, "ffn_hidden_size": 128, "n_inner": 128, "ffn_dim": 128, "chunk_size": 16,
           "moe_intermediate_size": 64, "mamba_chunk_size": 16,
           "shared_expert_intermediate_size": 64, "shared_intermediate_size": 64, "expert_hidden_size": 64,
           "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 128, "first_k_dense_replace": 1,
           "num_kv_shared_layers": 0, "num_mem_blocks": 1}
_AS_WIDE = ("embedding_size", "word_embed_proj_dim", "hidden_dim", "attention_hidden_size", "lru_width")
"""Settings that equal the model's width in some architectures; they change with it."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ALL_EXPERTS = 4


def small_configs(config: PreTrainedConfig, vocabulary: int) -> Iterator[PreTrainedConfig]:
    """Configurations of small copies of a model, the smallest first. Not every architecture accepts every change.

    Args:
        config: the model's configuration.
        vocabulary: the number of tokens of the copy.
    """
    for change in (_narrow, lambda settings: None):
        settings = config.to_dict()
        inner = settings.get("text_config")
        text = inner if isinstance(inner, dict) else settings
        for part in (settings, text):
            for name in ("quantization_config", "compression_config"):
                part.pop(name, None)
        _shorten(text)
        change(text)
        _reduce_vocabulary(settings, text, vocabulary)
        for name, part in settings.items():
            if name.endswith("_config") and isinstance(part, dict) and part is not text:
                _shorten(part)
        try:
            yield type(config).from_dict(settings)
        except Exception:  # An architecture that can't be changed like this.
            continue


def small_enough(model: PreTrainedModel) -> bool:
    """Whether a copy is small enough to be created. The model may be without storage."""
    return model.num_parameters() <= _MOST_NUMBERS


def _reduce_vocabulary(whole: Settings, text: Settings, vocabulary: int) -> None:
    for part in (whole, text):
        if "vocab_size" in part:
            part["vocab_size"] = vocabulary
        for name, value in part.items():
            if name.endswith(("token_id", "token_index")):
                if isinstance(value, int) and value >= vocabulary:
                    part[name] = vocabulary - 1
                elif isinstance(value, list):
                    part[name] = [min(one, vocabulary - 1) for one in value if isinstance(one, int)]


def _shorten(settings: Settings) -> None:
    """Reduce the layers to a few, with each kind of layer."""
    name = next((name for name in _DEPTHS if isinstance(settings.get(name), int)), None)
    if name is None or settings[name] <= 2:
        return
    depth: int = settings[name]
    by_layer = {key: value for key, value in settings.items()
                if isinstance(value, (list, str)) and len(value) == depth and key != "architectures"}
    layers: list[int] = []
    if by_layer:
        kinds: set[str] = set()
        for index in range(depth):
            kind = repr([value[index] for value in by_layer.values()])
            if kind not in kinds and len(layers) < _MOST_LAYERS:
                kinds.add(kind)
                layers.append(index)
        if len(layers) < 2:
            layers = [layers[0], (layers[0] + 1) % depth]
    else:
        layers = list(range(min(depth, max(2, _period(settings)))))
    for key, value in by_layer.items():
        chosen = [value[index] for index in layers]
        settings[key] = "".join(chosen) if isinstance(value, str) else chosen
    for key, value in settings.items():
        # Lists of layer indices of one kind.
        if (key not in by_layer and isinstance(value, list) and value and key.endswith(("indices", "_layers", "_ids"))
                and all(isinstance(one, int) and 0 <= one < depth for one in value)):
            settings[key] = [1]
    if "attention_types" in settings:  # GPT-Neo's kinds of attention and their repetitions.
        settings["attention_types"] = [[["global", "local"], 1]]
    settings[name] = len(layers)
    if "max_window_layers" in settings:
        settings["max_window_layers"] = len(layers)


def _period(settings: Settings) -> int:
    """The number of layers after which the pattern of layers repeats."""
    periods = [value for key, value in settings.items() if isinstance(value, int)
               and key.endswith(("_period", "_interval", "_pattern", "_freq", "every_n_layers"))]
    patterns = [len(value) for key, value in settings.items() if isinstance(value, list) and key.endswith("_types")]
    return min(_MOST_LAYERS, max([2, *periods, *patterns]))


def _narrow(settings: Settings) -> None:
    """Reduce the number of heads and keep their width, on which rotary embeddings and other parts depend."""
    heads_name = next((name for name in _HEADS if isinstance(settings.get(name), int)), None)
    width_name = next((name for name in _WIDTHS if isinstance(settings.get(name), int)), None)
    if heads_name is None or width_name is None or not settings[heads_name]:
        return
    heads, width = settings[heads_name], settings[width_name]
    head = settings.get("head_dim")
    head = head if isinstance(head, int) and head > 0 else width // heads
    few = min(heads, 4)
    groups = settings.get("num_key_value_heads")
    settings[heads_name] = few
    if isinstance(groups, int):
        settings["num_key_value_heads"] = few if groups == heads else math.gcd(few, max(1, min(groups, few // 2)))
    settings[width_name] = few * head
    for name, most in _NARROW.items():
        if isinstance(settings.get(name), int):
            settings[name] = min(settings[name], most)
    for name in _AS_WIDE:
        if settings.get(name) == width:
            settings[name] = settings[width_name]
    _fewer_experts(settings)
    _fewer_state_heads(settings, settings[width_name])


def _fewer_experts(settings: Settings) -> None:
    for name in _EXPERTS:
        if isinstance(settings.get(name), int):
            settings[name] = min(settings[name], _ALL_EXPERTS)
    for name in ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"):
        if isinstance(settings.get(name), int):
            settings[name] = min(settings[name], 2)
    for name in ("n_group", "topk_group"):
        if isinstance(settings.get(name), int):
            settings[name] = 1


def _fewer_state_heads(settings: Settings, width: int) -> None:
    """Set the heads of state-space layers to the number that their inner width needs."""
    for heads, head, expand in (("mamba_n_heads", "mamba_d_head", "mamba_expand"), ("num_heads", "head_dim", "expand"),
                                ("mamba_num_heads", "mamba_head_dim", "expand")):
        numbers = [settings.get(name) for name in (heads, head, expand)]
        if all(isinstance(one, int) and one for one in numbers):
            settings[heads] = max(1, width * settings[expand] // settings[head])
    for name in ("mamba_n_groups", "n_groups"):
        if isinstance(settings.get(name), int):
            settings[name] = 1
    if isinstance(settings.get("mamba_d_ssm"), int) and settings.get("mamba_d_head"):
        settings["mamba_d_ssm"] = settings["mamba_n_heads"] * settings["mamba_d_head"]
    for name, most in (("linear_num_key_heads", 1), ("linear_num_value_heads", 2)):
        if isinstance(settings.get(name), int):
            settings[name] = most


@torch.no_grad()
def looks_ahead(model: PreTrainedModel, ids: torch.Tensor) -> bool:
    """Whether a token's output depends on later tokens, as it never does in a causal language model.

    Args:
        model: in evaluation mode.
        ids: token ids (1, length).
    """
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % int(model.get_input_embeddings().weight.shape[0])
    one, two = (model(input_ids=each, use_cache=False).logits[0, :-1].float() for each in (ids, other))
    return bool((one - two).abs().max() > 1e-3 * max(1e-6, float(one.abs().max())))


def remapped(ids: Mapping[int, int], row: tuple[int, ...]) -> tuple[int, ...]:
    """Token ids in the copy's vocabulary."""
    return tuple(ids[token] for token in row)
