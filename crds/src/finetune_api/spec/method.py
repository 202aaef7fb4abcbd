"""How the model learns: the method, its settings, and how the base weights are stored.

The table of all methods stands here. A new method is a module in `finetune_api.methods` and three lines in this file: a
member of `MethodType`, a field of `MethodSpec` for its settings, and a line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from finetune_api.methods.additive import VIRTUAL_TOKENS, Additive, AdditiveSpec, Technique
from finetune_api.methods.dora import Dora, DoraSpec
from finetune_api.methods.full import Full
from finetune_api.methods.lora import Initialization, Lora, LoraSpec
from finetune_api.methods.low_rank import LowRankSpec
from finetune_api.methods.method import Method
from finetune_api.methods.partial import Partial, PartialSpec
from finetune_api.methods.reft import Reft, ReftSpec
from finetune_api.values.api_model import ApiModel

__all__ = ["METHODS", "VIRTUAL_TOKENS", "AdditiveSpec", "DoraSpec", "Engine", "Initialization", "LoraSpec",
           "LowRankSpec", "MethodSpec", "MethodType", "PartialSpec", "Quantization", "ReftSpec", "Technique"]


class MethodType(StrEnum):
    """The families of fine-tuning."""

    LORA = "LoRA"
    DORA = "DoRA"
    REFT = "ReFT"
    PARTIAL = "Partial"
    ADDITIVE = "Additive"
    FULL = "Full"


METHODS: Mapping[MethodType, Method[Any]] = {
    MethodType.LORA: Lora(),
    MethodType.DORA: Dora(),
    MethodType.REFT: Reft(),
    MethodType.PARTIAL: Partial(),
    MethodType.ADDITIVE: Additive(),
    MethodType.FULL: Full(),
}
"""What the API says of each method."""


class Quantization(StrEnum):
    """What the frozen base weights are stored in while training."""

    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"


class Engine(StrEnum):
    """The code that runs the training steps."""

    NATIVE = "native"
    UNSLOTH = "unsloth"


class MethodSpec(ApiModel):
    """The method and its settings; the settings block has the method's name in lower case."""

    type: MethodType = MethodType.LORA
    """`LoRA` or `DoRA`, which with quantization `nf4` are QLoRA and QDoRA; `ReFT`; `Additive`; and on weights that are
    not quantized `Partial` and `Full`, which trains all weights and has no settings."""

    quantization: Quantization = Quantization.NONE
    """Store the frozen base weights in 8 bits (`int8`, LLM.int8(), arXiv:2208.07339) or 4 bits (`nf4`, QLoRA,
    arXiv:2305.14314); `none` keeps the training precision."""

    lora: LoraSpec | None = None
    """Settings of type LoRA."""

    dora: DoraSpec | None = None
    """Settings of type DoRA."""

    partial: PartialSpec | None = None
    """Settings of type Partial, which needs them."""

    additive: AdditiveSpec | None = None
    """Settings of type Additive."""

    reft: ReftSpec | None = None
    """Settings of type ReFT."""

    @property
    def definition(self) -> Method[Any]:
        """What the API says of this method."""
        return METHODS[self.type]

    @property
    def settings(self) -> Any:
        """The settings block of this method; None where it is left out, or the method has none."""
        block = self.definition.block
        return getattr(self, block) if block else None

    def with_settings(self, settings: ApiModel | None) -> MethodSpec:
        """The same method with other settings."""
        block = self.definition.block
        return self.model_copy(update={block: settings}) if block else self

    @property
    def resolved(self) -> MethodSpec:
        """The method with the defaults of its settings."""
        return self.with_settings(self.definition.resolved(self.settings))

    @property
    def display_name(self) -> str:
        """The name that people use: QLoRA, DoRA, LoRA (int8), IA3, Full, ReFT (QLoRA)."""
        return self.definition.display_name(self.settings, self.quantization)

    def samples_responses(self, longest_row: int) -> bool:
        """Whether it trains on responses that the model samples, for rows of so many tokens at most."""
        return self.definition.rollout_tokens(self.settings, longest_row) is not None

    @property
    def low_rank(self) -> tuple[str, LowRankSpec] | None:
        """The settings of the low-rank adapter that is trained, and their field below `method`; None without one."""
        return self.definition.low_rank(self.settings)
