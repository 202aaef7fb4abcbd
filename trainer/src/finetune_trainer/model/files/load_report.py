"""The report of transformers about a loaded model: missing weights, unexpected weights, and weights of another shape.

transformers fills missing weights with random numbers and continues. Training on them is training on noise, so every
difference is an error with the names of the weights: in preflight (on a model without storage) and in the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.files.weights import some

_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|\.(attn|attention)\.bias|(^|\.)position_ids)$")
"""Constants that older versions of transformers stored as weights; models compute them now."""
_OTHER_SENSES = re.compile(r"(^|\.)(vision|visual|audio|image|speech|multi_modal|mm_|embed_vision|embed_audio|"
                           r"connector|perceiver|resampler)")
"""Parts of a multimodal model that do not belong to its text decoder, which alone is loaded."""
_QUANTIZED = (".qweight", ".qzeros", ".scales", ".g_idx", ".absmax", ".quant_map", ".SCB", ".weight_packed",
              ".weight_scale", ".weight_scale_inv")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


def refuse_made_up(report: Mapping[str, Any], config: PreTrainedConfig, kind: str, multimodal: bool, source: str
                   ) -> None:
    """Refuse a model whose files and configuration do not belong together.

    Args:
        report: the `output_loading_info` of `from_pretrained`. It leaves out heads that are tied to the embeddings, and
            what transformers ignores for the architecture.
        config: the model's configuration.
        kind: the name of the class that is loaded.
        multimodal: whether that class is only the text decoder of the model in the files.
        source: the model's location, for messages.

    Raises:
        BadConfig: with the names of some such weights, and their number.
    """
    missing = set(report["missing_keys"])
    unexpected = {name for name in report["unexpected_keys"]
                  if not _BUFFERS.search(name) and not (multimodal and _OTHER_SENSES.search(name))}
    mismatched = sorted(report["mismatched_keys"])
    start = f"spec.model.source: {source}: "
    if missing:
        raise BadConfig(f"{start}{_weights(missing)} that its config.json asks for {_are(missing)} not in its files: "
                        f"{some(missing)}. transformers would make them up at random: "
                        f"{_cure(missing, unexpected, config, kind)}")
    if mismatched:
        name, stored, wanted = mismatched[0]
        raise BadConfig(f"{start}{_weights(mismatched)} {_have(mismatched)} another shape in its files than by its "
                        f"config.json: {name} is {tuple(stored)} and not {tuple(wanted)}: take the config.json that "
                        "belongs to the files")
    if unexpected:
        raise BadConfig(f"{start}its files hold {_weights(unexpected)} that a {kind} does not have: {some(unexpected)}"
                        f": {_cure(missing, unexpected, config, kind)}")


def _cure(missing: set[str], unexpected: set[str], config: PreTrainedConfig, kind: str) -> str:
    if any(name.endswith(_QUANTIZED) for name in unexpected):
        return "they are stored quantized, and config.json doesn't say how; take the model that they were made from"
    architectures = getattr(config, "architectures", None)
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if named and kind not in named:
        return f"config.json calls the model a {named[0]}, which has other weights; take a {kind}"
    if "lm_head.weight" in missing and len(missing) == 1:
        return ("it is the head; where it is tied to the embeddings, config.json has to say tie_word_embeddings: true; "
                "otherwise take a model with its head")
    deepest = max((int(found[1]) for name in missing if (found := _LAYER.search(name))), default=-1)
    layers = config.get_text_config().num_hidden_layers
    if missing and deepest == layers - 1 and not any("layers.0." in name for name in missing):
        return f"config.json has {layers} layers, and the files may have fewer; take the files that belong to it"
    return "take the files and the config.json that belong together"


def _weights(names: Iterable[Any]) -> str:
    count = len(list(names))
    return "one weight" if count == 1 else f"{count} weights"


def _are(names: set[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _have(names: list[Any]) -> str:
    return "has" if len(names) == 1 else "have"
