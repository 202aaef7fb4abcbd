"""LoRA and QLoRA."""

from __future__ import annotations

from enum import StrEnum

from finetune_api.architecture import Architecture
from finetune_api.methods.low_rank import LowRankSpec, low_rank_parameters
from finetune_api.methods.method import Method
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.rule import Rule, Section


class Initialization(StrEnum):
    """What a LoRA adapter starts from."""

    DEFAULT = "default"
    PISSA = "pissa"
    LOFTQ = "loftq"


class LoraSpec(LowRankSpec):
    """Low-rank adapters: W + (alpha / rank)·B·A (Hu et al., 2021, arXiv:2106.09685)."""

    initialization: Initialization = Initialization.DEFAULT
    """What the adapter starts from: `default` changes nothing at first (B is zero). `pissa` takes the largest singular
    values out of the base weights and trains those (Meng et al., 2024, arXiv:2404.02948); it needs quantization `none`,
    and is published as a plain LoRA of twice the rank for the untouched base. `loftq` makes up for the error of the
    quantization (Li et al., 2023, arXiv:2310.08659); it needs quantization `nf4`."""


_NEEDED_QUANTIZATION = {"pissa": "none", "loftq": "nf4"}


def _initialization_fits(method: Section) -> bool:
    chosen = method.get("lora", {}).get("initialization", "default")
    return chosen not in _NEEDED_QUANTIZATION or method.get("quantization", "none") == _NEEDED_QUANTIZATION[chosen]


class Lora(Method[LoraSpec]):
    """Low-rank adapters beside frozen weights."""

    name = "LoRA"
    block = "lora"
    unsloth = True
    rules = (
        Rule(
            "spec.method", "lora.initialization",
            _initialization_fits,
            "!has(self.lora) || !has(self.lora.initialization) || self.lora.initialization == 'default' || "
            "(has(self.quantization) ? self.quantization : 'none') == "
            "(self.lora.initialization == 'pissa' ? 'none' : 'nf4')",
            "pissa starts from the weights themselves and needs quantization: none; loftq starts from the error of "
            "quantization and needs quantization: nf4; change one of the two",
            accepts={"quantization": "nf4", "lora": {"initialization": "loftq"}},
            refuses={"quantization": "nf4", "lora": {"initialization": "pissa"}},
        ),
    )

    def resolved(self, settings: LoraSpec | None) -> LoraSpec:
        """The settings, or their defaults."""
        return settings or LoraSpec()

    def low_rank(self, settings: LoraSpec | None) -> tuple[str, LowRankSpec] | None:
        """The adapter is the whole method."""
        return ("lora", settings) if settings else None

    def can_quantize(self, settings: LoraSpec | None) -> bool:
        """PiSSA's start needs weights that are not quantized."""
        return settings is None or settings.initialization is not Initialization.PISSA

    def trained(self, settings: LoraSpec | None, model: Architecture) -> TrainedParameters:
        """Two factors beside each chosen linear layer."""
        return low_rank_parameters(settings or LoraSpec(), model)
