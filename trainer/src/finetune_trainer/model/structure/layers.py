"""The text decoder of a model, its layers, and its parameters by layer or by name."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from finetune_api.spec.method import PartialSpec
from transformers import PreTrainedModel

from finetune_trainer.errors import BadConfig

_SHOWN = 8


def decoder_prefix(model: PreTrainedModel) -> str:
    """The prefix of the names in a multimodal model's text decoder; empty for a text model."""
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def text_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters for text, by their full names. Those of vision and audio are left out."""
    prefix = decoder_prefix(model)
    ends = {id(parameter) for module in (model.get_input_embeddings(), model.get_output_embeddings())
            if module is not None for parameter in module.parameters()}
    return {name: parameter for name, parameter in model.named_parameters()
            if name.startswith(prefix) or id(parameter) in ends}


def decoder_layers(model: PreTrainedModel) -> tuple[str, torch.nn.ModuleList]:
    """The list of a model's layers, and its name: the list of modules that has as many items as the model has layers.

    Raises:
        BadConfig: the architecture has no such list.
    """
    depth = model.config.get_text_config().num_hidden_layers
    prefix = decoder_prefix(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and name.startswith(prefix):
            return name, module
    raise BadConfig(f"spec.model.source: {type(model).__name__} has no list of its {depth} layers; write "
                    "spec.method.partial.parameters, or choose another method")


def chosen_parameters(model: PreTrainedModel, partial: PartialSpec) -> dict[str, torch.nn.Parameter]:
    """The parameters that a job names, by their full names.

    Raises:
        BadConfig: a layer does not exist, or a pattern matches nothing; the message lists what exists.
    """
    parameters = text_parameters(model)
    if partial.parameters is not None:
        for pattern in partial.parameters:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise BadConfig(f"spec.method.partial.parameters: {pattern} matches no parameter; the names that "
                                f"exist: {', '.join(_abridged(list(parameters)))}")
        return {name: parameter for name, parameter in parameters.items()
                if any(fnmatchcase(name, pattern) for pattern in partial.parameters)}
    stack, layers = decoder_layers(model)
    if partial.layers is not None:
        field, wanted = "layers", partial.layers
    else:
        field, count = "lastLayers", partial.last_layers or 0
        wanted = tuple(range(len(layers) - count, len(layers)))
    if min(wanted) < 0 or max(wanted) >= len(layers):
        written = list(wanted) if field == "layers" else len(wanted)
        raise BadConfig(f"spec.method.partial.{field} is {written}; the model has {len(layers)} layers, numbered "
                        f"from 0 to {len(layers) - 1}")
    return {name: parameter for name, parameter in parameters.items()
            if any(name.startswith(f"{stack}.{index}.") for index in wanted)}


def _abridged(names: list[str]) -> list[str]:
    """Names with a star for the number of the layer, each once, as examples for a pattern."""
    short = list(dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names))
    return short if len(short) <= 3 * _SHOWN else [*short[:3 * _SHOWN], "…"]
