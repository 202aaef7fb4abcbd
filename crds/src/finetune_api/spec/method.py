"""How the model learns: the method, and what the base weights are kept in meanwhile."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel

ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")]


class MethodType(StrEnum):
    """The families of fine-tuning."""

    LORA = "LoRA"
    DORA = "DoRA"
    REFT = "ReFT"
    PARTIAL = "Partial"
    ADDITIVE = "Additive"
    FULL = "Full"


class Quantization(StrEnum):
    """What the frozen base weights are stored in while training."""

    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"


class Engine(StrEnum):
    """The code that runs the training steps."""

    NATIVE = "native"
    UNSLOTH = "unsloth"


class LoraSpec(ApiModel):
    """Low-rank adapters: W + (alpha / rank)·B·A (Hu et al., 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of the two factors."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update: it is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""

    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] | None = None
    """Linear layers that get an adapter, by the end of their name (`q_proj`). Left out: all but the head."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA, Kalajdzievski, 2023, arXiv:2312.03732)."""


class DoraSpec(LoraSpec):
    """Weight-decomposed low-rank adapters: LoRA on the direction of each weight, with a trained magnitude
    (Liu et al., 2024, arXiv:2402.09353)."""

    kept_norms: bool = True
    """Keep the norms of the adapted weights between optimizer steps: the same result, faster. `false` computes them
    anew in every pass, as PEFT does."""


class MethodSpec(ApiModel):
    """The method and its settings; the settings block has the method's name in lower case."""

    type: MethodType = MethodType.LORA
    """`LoRA` or `DoRA`; with quantization `nf4` these are QLoRA and QDoRA."""

    quantization: Quantization = Quantization.NONE
    """Store the frozen base weights in 8 bits (`int8`, LLM.int8(), arXiv:2208.07339) or 4 bits (`nf4`, QLoRA,
    arXiv:2305.14314); `none` keeps the training precision."""

    lora: LoraSpec | None = None
    """Settings of type LoRA."""

    dora: DoraSpec | None = None
    """Settings of type DoRA."""
