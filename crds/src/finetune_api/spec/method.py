"""How the model learns: the method, and what the base weights are kept in meanwhile."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.spec.reft import PpoSpec, ReftPolicy, RewardSpec
from finetune_api.values.api_model import ApiModel

ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
ParameterPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]-]{1,200}$")]
LayerIndex = Annotated[int, Field(ge=0, le=4095)]


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


class Initialization(StrEnum):
    """What a LoRA adapter starts from."""

    DEFAULT = "default"
    PISSA = "pissa"
    LOFTQ = "loftq"


class Technique(StrEnum):
    """What an additive method puts into the model."""

    IA3 = "IA3"
    PROMPT_TUNING = "PromptTuning"
    PREFIX_TUNING = "PrefixTuning"
    BOTTLENECK = "Bottleneck"


VIRTUAL_TOKENS = (Technique.PROMPT_TUNING, Technique.PREFIX_TUNING)
"""Techniques that put trained vectors before the text: rows can't be packed, and nothing can be merged."""


class LowRankSpec(ApiModel):
    """What LoRA and DoRA have in common."""

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

    learning_rate_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    """B learns this many times faster than `training.learningRate`, at which A learns (LoRA+, Hayou et al., 2024,
    arXiv:2402.12354, who advise 16). Left out: both alike. In ReFT it counts in the warm-up; PPO moves both at
    `ppo.learningRate`, which its stability hangs on."""


class LoraSpec(LowRankSpec):
    """Low-rank adapters: W + (alpha / rank)·B·A (Hu et al., 2021, arXiv:2106.09685)."""

    initialization: Initialization = Initialization.DEFAULT
    """What the adapter starts from: `default` changes nothing at first (B is zero). `pissa` takes the largest singular
    values out of the base weights and trains those (Meng et al., 2024, arXiv:2404.02948); it needs quantization `none`,
    and is published as a plain LoRA of twice the rank for the untouched base. `loftq` makes up for the error of the
    quantization (Li et al., 2023, arXiv:2310.08659); it needs quantization `nf4`."""


class DoraSpec(LowRankSpec):
    """Weight-decomposed low-rank adapters: LoRA on the direction of each weight, with a trained magnitude
    (Liu et al., 2024, arXiv:2402.09353)."""

    kept_norms: bool = True
    """Keep the norms of the adapted weights between optimizer steps: the same result, faster. `false` computes them
    anew in every pass, as PEFT does."""


class PartialSpec(ApiModel):
    """Which of the model's own parameters are trained, all else frozen: write exactly one of the three."""

    last_layers: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The last so many layers of the model."""

    layers: Annotated[tuple[LayerIndex, ...], Field(min_length=1, max_length=256)] | None = None
    """Layers by their numbers, from 0."""

    parameters: Annotated[tuple[ParameterPattern, ...], Field(min_length=1, max_length=64)] | None = None
    """Parameters by patterns on their full names, where `*` stands for anything: `["*.bias"]` trains the biases alone
    (BitFit, Ben Zaken et al., 2021, arXiv:2106.10199), `["*norm*"]` the norms, `["*embed*"]` the embeddings."""


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


class ReftSpec(ApiModel):
    """Reinforced fine-tuning (Luong et al., 2024, arXiv:2401.08967): a supervised warm-up, which `spec.training`
    describes, then PPO on sampled chains of thought."""

    policy: ReftPolicy = ReftPolicy.LORA
    """What learns, in both stages: a `LoRA` or `DoRA` adapter, or the `Full` model as in the paper."""

    lora: LowRankSpec | None = None
    """Settings of the adapter; `learningRateRatio` holds for the warm-up."""

    reward: RewardSpec = RewardSpec()
    """What a response is worth."""

    ppo: PpoSpec = PpoSpec()
    """How responses are sampled and learnt from."""


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
    def low_rank(self) -> tuple[str, LowRankSpec] | None:
        """The settings of the adapter of low rank that is trained, and their field below `method`; None without one."""
        for field, settings in (("lora", self.lora), ("dora", self.dora),
                                ("reft.lora", self.reft.lora if self.reft else None)):
            if settings is not None:
                return field, settings
        return None
