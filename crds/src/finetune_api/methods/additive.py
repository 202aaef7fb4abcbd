"""Additive methods: new parameters beside a frozen base."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.architecture import Architecture
from finetune_api.methods.method import Method, MethodCondition, named, with_quantization
from finetune_api.methods.module_name import ModuleName
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.rule import Rule, Section
from finetune_api.values.api_model import ApiModel

DEFAULT_VIRTUAL_TOKENS = 20
DEFAULT_BOTTLENECK_SIZE = 64

_IA3_LAYERS = ("k_proj", "v_proj", "down_proj", "qkv_proj")


class Technique(StrEnum):
    """What an additive method puts into the model."""

    IA3 = "IA3"
    PROMPT_TUNING = "PromptTuning"
    PREFIX_TUNING = "PrefixTuning"
    BOTTLENECK = "Bottleneck"


VIRTUAL_TOKENS = (Technique.PROMPT_TUNING, Technique.PREFIX_TUNING)
"""Techniques that put trained vectors before the text: rows can't be packed, and nothing can be merged."""

_LEARNING_RATES = {
    Technique.IA3: 1e-2,
    Technique.PROMPT_TUNING: 3e-2,
    Technique.PREFIX_TUNING: 3e-2,
    Technique.BOTTLENECK: 1e-3,
}


class AdditiveSpec(ApiModel):
    """New parameters beside the frozen base."""

    technique: Technique = Technique.IA3
    """`IA3` scales keys, values and feed-forward activations (Liu et al., 2022, arXiv:2205.05638). `PromptTuning` puts
    trained embeddings before the text (Lester et al., 2021, arXiv:2104.08691), `PrefixTuning` trained keys and values
    of every layer (Li and Liang, 2021, arXiv:2101.00190). `Bottleneck` puts a small network behind attention and
    feed-forward of every layer (Houlsby et al., 2019, arXiv:1902.00751)."""

    virtual_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """PromptTuning and PrefixTuning: how many vectors stand before the text. Left out: 20."""

    bottleneck_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Bottleneck: width of the small networks. Left out: 64."""

    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] | None = None
    """IA3: linear layers that are scaled, by the end of their name. Left out: those that PEFT names for the model's
    architecture."""


def _technique(method: Section) -> str:
    written: str = method.get("additive", {}).get("technique", Technique.IA3)
    return written


def _technique_rule(field: str, owners: tuple[Technique, ...], other: Technique, value: object) -> Rule:
    """A setting belongs to the techniques that have it.

    Args:
        field: the setting.
        owners: the techniques that have it.
        other: a technique that does not.
        value: a valid value.
    """
    names = sorted(map(str, owners))
    return Rule(
        "spec.method", f"additive.{field}",
        lambda method: field not in method.get("additive", {}) or _technique(method) in names,
        f"!has(self.additive) || !has(self.additive.{field}) || "
        f"(has(self.additive.technique) ? self.additive.technique : 'IA3') in {names}",
        f"{field} belongs to technique {named(names)}: leave it out, or change the technique",
        accepts={"type": "Additive", "additive": {"technique": names[0], field: value}},
        refuses={"type": "Additive", "additive": {"technique": str(other), field: value}},
    )


class Additive(Method[AdditiveSpec]):
    """IA3, prompt tuning, prefix tuning and bottleneck adapters."""

    name = "Additive"
    block = "additive"
    mergeable = MethodCondition(
        lambda method: _technique(method) == Technique.IA3,
        "!has(self.method.additive) || !has(self.method.additive.technique) || self.method.additive.technique == 'IA3'")
    rules = (
        _technique_rule("virtualTokens", VIRTUAL_TOKENS, Technique.IA3, 8),
        _technique_rule("bottleneckSize", (Technique.BOTTLENECK,), Technique.IA3, 16),
        _technique_rule("targetModules", (Technique.IA3,), Technique.BOTTLENECK, ["k_proj"]),
        Rule(
            "spec", "training.gradientCheckpointing",
            lambda spec: _technique(spec.get("method", {})) != Technique.PREFIX_TUNING
            or spec.get("training", {}).get("gradientCheckpointing") != "enabled",
            "!has(self.method) || !has(self.method.additive) || !has(self.method.additive.technique) || "
            "self.method.additive.technique != 'PrefixTuning' || !has(self.training) || "
            "!has(self.training.gradientCheckpointing) || self.training.gradientCheckpointing != 'enabled'",
            "prefix tuning does not work with gradient checkpointing: remove gradientCheckpointing",
            accepts={"method": {"type": "Additive", "additive": {"technique": "PromptTuning"}},
                     "training": {"gradientCheckpointing": "enabled"}},
            refuses={"method": {"type": "Additive", "additive": {"technique": "PrefixTuning"}},
                     "training": {"gradientCheckpointing": "enabled"}},
        ),
    )

    @property
    def usual_blocks(self) -> tuple[Section, ...]:
        """One for each technique."""
        return tuple({"technique": str(technique)} for technique in Technique)

    def resolved(self, settings: AdditiveSpec | None) -> AdditiveSpec:
        """The settings with the defaults of their technique."""
        settings = settings or AdditiveSpec()
        if settings.technique in VIRTUAL_TOKENS and settings.virtual_tokens is None:
            return settings.model_copy(update={"virtual_tokens": DEFAULT_VIRTUAL_TOKENS})
        if settings.technique is Technique.BOTTLENECK and settings.bottleneck_size is None:
            return settings.model_copy(update={"bottleneck_size": DEFAULT_BOTTLENECK_SIZE})
        return settings

    def learning_rate(self, settings: AdditiveSpec | None) -> float:
        """Few numbers, or numbers that start at zero, have to move faster than pretrained weights."""
        return _LEARNING_RATES[(settings or AdditiveSpec()).technique]

    def display_name(self, settings: AdditiveSpec | None, quantization: str) -> str:
        """The technique's name."""
        return with_quantization((settings or AdditiveSpec()).technique, quantization)

    def packs_rows(self, settings: AdditiveSpec | None) -> bool:
        """Virtual tokens stand before one row."""
        return settings is None or settings.technique not in VIRTUAL_TOKENS

    def allows_checkpointing(self, settings: AdditiveSpec | None) -> bool:
        """Prefix tuning does not work with it: when activations are recomputed, the prefix is missing."""
        return settings is None or settings.technique is not Technique.PREFIX_TUNING

    def virtual_tokens(self, settings: AdditiveSpec | None) -> int:
        """The vectors of prompt and prefix tuning."""
        return (settings.virtual_tokens or 0) if settings else 0

    def trained(self, settings: AdditiveSpec | None, model: Architecture) -> TrainedParameters:
        """The new parameters of the technique."""
        settings = settings or AdditiveSpec()
        tokens = settings.virtual_tokens or DEFAULT_VIRTUAL_TOKENS
        if settings.technique is Technique.PROMPT_TUNING:
            return TrainedParameters(tokens * model.hidden, 0, frozenset(), model.layers)
        if settings.technique is Technique.PREFIX_TUNING:
            return TrainedParameters(2 * tokens * model.key_values * model.layers, 0, frozenset(), model.layers,
                                     prefix=True)
        if settings.technique is Technique.BOTTLENECK:
            size = settings.bottleneck_size or DEFAULT_BOTTLENECK_SIZE
            one = 2 * size * model.hidden + size + model.hidden
            return TrainedParameters(2 * one * model.layers, 0, frozenset(), model.layers, bottleneck=size)
        names = settings.target_modules or _IA3_LAYERS
        scaled = [linear for linear in model.linears if linear.name in names]
        # Each factor scales the layer's outputs; in the feed-forward's last layer it scales the inputs.
        added = model.layers * sum(linear.inputs if linear.source == "product" else linear.outputs for linear in scaled)
        return TrainedParameters(added, 0, frozenset(linear.name for linear in scaled), model.layers, factors=True)
