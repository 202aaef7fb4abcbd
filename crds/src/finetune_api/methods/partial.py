"""Partial fine-tuning: some of the model's own parameters."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.architecture import Architecture
from finetune_api.methods.method import Method
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.rule import Rule, Section
from finetune_api.values.api_model import ApiModel

ParameterPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]-]{1,200}$")]
LayerIndex = Annotated[int, Field(ge=0, le=4095)]


class PartialSpec(ApiModel):
    """Which of the model's own parameters are trained, all else frozen: write exactly one of the three."""

    last_layers: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The last so many layers of the model."""

    layers: Annotated[tuple[LayerIndex, ...], Field(min_length=1, max_length=256)] | None = None
    """Layers by their numbers, from 0."""

    parameters: Annotated[tuple[ParameterPattern, ...], Field(min_length=1, max_length=64)] | None = None
    """Parameters by patterns on their full names, where `*` stands for anything: `["*.bias"]` trains the biases alone
    (BitFit, Ben Zaken et al., 2021, arXiv:2106.10199), `["*norm*"]` the norms, `["*embed*"]` the embeddings."""


_CHOICES = {"lastLayers", "layers", "parameters"}


class Partial(Method[PartialSpec]):
    """Chosen parameters are trained in place, all others are frozen."""

    name = "Partial"
    block = "partial"
    smallest_block: ClassVar[Section] = {"lastLayers": 1}
    quantizable = False
    rules = (
        Rule(
            "spec.method", "partial",
            lambda method: method.get("type") != "Partial" or "partial" in method,
            "!has(self.type) || self.type != 'Partial' || has(self.partial)",
            "type Partial needs to know what to train: write partial: {lastLayers: 2}, or layers, or parameters",
            accepts={"type": "Partial", "partial": {"lastLayers": 2}}, refuses={"type": "Partial"},
        ),
        Rule(
            "spec.method", "partial.lastLayers",
            lambda method: "partial" not in method or len(_CHOICES & set(method["partial"])) == 1,
            "!has(self.partial) || [has(self.partial.lastLayers), has(self.partial.layers), "
            "has(self.partial.parameters)].filter(written, written).size() == 1",
            "write exactly one of lastLayers, layers and parameters",
            accepts={"type": "Partial", "partial": {"layers": [0, 1]}},
            refuses={"type": "Partial", "partial": {"layers": [0], "parameters": ["*.bias"]}},
        ),
    )

    def learning_rate(self, settings: PartialSpec | None) -> float:
        """Parameters chosen by pattern are few, and have to move faster than whole layers."""
        if settings is None:
            return super().learning_rate(settings)
        return 5e-4 if settings.parameters else 5e-5

    def trained(self, settings: PartialSpec | None, model: Architecture) -> TrainedParameters:
        """The chosen parameters."""
        if settings is None:
            raise ValueError("spec.method.partial is left out: without it nothing is trained")
        if settings.parameters is not None:
            chosen = [(name, size, layer) for name, size, layer in _named(model)
                      if any(fnmatchcase(name, pattern) for pattern in settings.parameters)]
        else:
            first = model.layers - (settings.last_layers or 0)
            wanted = set(settings.layers) if settings.layers is not None else set(range(first, model.layers))
            chosen = [one for one in _named(model) if one[2] in wanted]
        lowest = min((layer for _, _, layer in chosen), default=model.layers)
        linears = {linear.name for linear in model.linears for name, _, _ in chosen if f".{linear.name}.weight" in name}
        return TrainedParameters(0, sum(size for _, size, _ in chosen), frozenset(linears),
                                 model.layers - max(0, lowest),
                                 embeddings=sum(size for _, size, layer in chosen if layer < 0),
                                 norms=any(name.endswith("norms_layernorm.weight") for name, _, _ in chosen),
                                 blocks=len({layer for _, _, layer in chosen if 0 <= layer < model.layers}))


def _named(model: Architecture) -> Iterator[tuple[str, int, int]]:
    """A model's parameters under the names of Llama and its kin: name, count of numbers, and decoder layer.

    The embedding has layer -1, the last norm and the head have the number of layers.
    """
    yield "model.embed_tokens.weight", model.vocabulary * model.hidden, -1
    for layer in range(model.layers):
        for linear in model.linears:
            part = "mlp" if linear.source in ("middle", "product") else "self_attn"
            yield f"model.layers.{layer}.{part}.{linear.name}.weight", linear.weights, layer
            if linear.bias:
                yield f"model.layers.{layer}.{part}.{linear.name}.bias", linear.outputs, layer
        yield f"model.layers.{layer}.norms_layernorm.weight", model.norms, layer
    yield "model.norm.weight", model.hidden, model.layers
    if not model.tied:
        yield "lm_head.weight", model.vocabulary * model.hidden, model.layers
