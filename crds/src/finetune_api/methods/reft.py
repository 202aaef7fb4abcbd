"""Reinforced fine-tuning (ReFT): what is sampled, what it is worth, and how the policy moves.

Luong et al., 2024, "ReFT: Reasoning with Reinforced Fine-Tuning" (arXiv:2401.08967). The warm-up is supervised and has
no block of its own: `spec.training` describes it, as it describes every other method's training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.architecture import Architecture
from finetune_api.methods.full import all_parameters
from finetune_api.methods.low_rank import LowRankSpec, low_rank_parameters
from finetune_api.methods.method import Method, MethodCondition
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.rule import CEL_PROCESSES, Rule, Section, processes
from finetune_api.values.api_model import ApiModel, Template
from finetune_api.values.quantities import Duration

# With the colon of `module:function`, which was written once: a rule refuses it and says what to write instead.
PluginName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.:-]*[A-Za-z0-9_])?$", max_length=100)]
REWARD_PLUGINS = "finetune.rewards"
"""The group of entry points that reward plug-ins belong to."""

DEFAULT_VALUE_RATE = 1e-5
"""The value head's learning rate beside an adapter. The head is a layer of its own and not an adapter: it learns at a
rate that suits whole models."""
DEFAULT_PROGRAM_TIMEOUT = timedelta(seconds=2)
DEFAULT_KL_COEFFICIENT = 0.05
DEFAULT_KL_COEFFICIENT_OF_PROGRAMS = 0.01


class ReftPolicy(StrEnum):
    """What of the model learns."""

    LORA = "LoRA"
    DORA = "DoRA"
    FULL = "Full"


DEFAULT_PPO_RATES = {ReftPolicy.LORA: 2e-4, ReftPolicy.DORA: 2e-4, ReftPolicy.FULL: 3e-7}


class RewardType(StrEnum):
    """How an answer is found in what the model wrote."""

    FINAL_ANSWER = "finalAnswer"
    FIELDS_MATCH = "fieldsMatch"
    JSON = "json"
    PROGRAM = "program"
    PLUGIN = "plugin"


class RewardSpec(ApiModel):
    """What a whole response is worth: 1 for a right answer, `partial` for one of the right type, else 0."""

    type: RewardType | None = None
    """`finalAnswer` reads what follows the last `trigger`; `fieldsMatch` reads the response as a JSON object, which is
    right where the metric of this name says so: free text does not count; `json` compares all fields of one JSON
    object, with partial credit for each; `program` runs the response's Python function `solution` in a sandbox and
    takes what it returns; `plugin` asks a plug-in of the trainer's image. Left out: `fieldsMatch` where
    `dataset.answerFormat.type` is `json`, else `finalAnswer`."""

    trigger: Annotated[str, Field(min_length=1, max_length=100)] = "####"
    """What the final answer follows, in the data and in responses (`finalAnswer` and, where it occurs, `json`)."""

    answer: Template | None = None
    """Jinja template of the right answer over the row's columns, such as `{{ answer }}`. Left out: found in the row's
    own completion, just as in a response. `program` needs it."""

    tolerance: Annotated[float, Field(ge=0)] = 1e-2
    """Numbers no further apart than this are the same. `fieldsMatch` compares exactly."""

    partial: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Reward for an answer that can be read and has the right answer's type (`fieldsMatch`: all fields that count), but
    is wrong."""

    plugin: PluginName | None = None
    """Plug-in of type `plugin`: the name of an entry point of the group `finetune.rewards` in the trainer's image,
    allowed by the operator's settings (`allowed.rewardPlugins`) or by `finetune run --allow-plugin`. Its function is
    called with the response, the right answer and the row's columns, and returns a number from 0 to 1; 1 counts as
    right."""

    timeout: Duration | None = None
    """Longest that one program may take (`program`). Left out: 2s."""


class PpoSpec(ApiModel):
    """Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347) on sampled responses."""

    steps: Annotated[int, Field(ge=1)] = 100
    """Rounds of sampling and learning."""

    rollouts: Annotated[int, Field(ge=1, le=65536)] = 128
    """Responses sampled in a step, one for each of so many questions."""

    mini_batch_size: Annotated[int, Field(ge=1)] = 64
    """Responses in one optimizer step; a divisor of `rollouts`."""

    epochs: Annotated[int, Field(ge=1, le=100)] = 2
    """Passes over a step's responses."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Learning rate after `rampSteps`. Left out: 2e-4 for an adapter, 3e-7 for all weights (the paper's)."""

    value_learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Learning rate of the value head after `rampSteps`. A larger hidden size needs a lower rate. Left out: 1e-5 with
    an adapter, `learningRate` with all weights (as in the paper: one rate for both)."""

    ramp_steps: Annotated[int, Field(ge=0)] = 5
    """Steps in which the learning rates rise to their peaks; no more than `steps`."""

    kl_coefficient: Annotated[float, Field(ge=0)] | None = None
    """Penalty per token for moving away from the warm-up model (KL coefficient, per nat). Left out: 0.01 for programs,
    else 0.05 (as in the paper)."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount of later rewards."""

    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(default=0.95, alias="lambda")
    """Decay of generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438)."""

    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far a token's probability may move in one step, as a ratio."""

    value_clip_range: Annotated[float, Field(gt=0)] = 0.2
    """How far a predicted value may move in one step."""

    value_coefficient: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the value loss."""

    max_new_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    """Longest sampled response in tokens. Left out: a quarter more than the longest answer in the training rows."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Temperature of sampling. Top-k and top-p are off."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""

    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; those of the warm-up follow `training.checkpointEvery`."""


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
    """How responses are sampled, and how the model learns from them."""


def _part(method: Section, name: str) -> Mapping[str, Any]:
    """A section of the block `reft`."""
    part: Mapping[str, Any] = method.get("reft", {}).get(name, {})
    return part


def _trains_all_weights(method: Section) -> bool:
    return bool(method.get("type") == "ReFT" and method.get("reft", {}).get("policy") == "Full")


def _reward_type(method: Section) -> str:
    written: str = _part(method, "reward").get("type", "")
    return written


_RULES = (
    Rule(
        "spec.method", "reft.ppo.miniBatchSize",
        lambda method: _part(method, "ppo").get("rollouts", 128) % _part(method, "ppo").get("miniBatchSize", 64) == 0,
        "!has(self.reft) || self.reft.ppo.rollouts % self.reft.ppo.miniBatchSize == 0",
        "the roll-outs of a step are shared equally among mini-batches: write a divisor of rollouts (128 roll-outs in "
        "mini-batches of 64 by default)",
        accepts={"type": "ReFT", "reft": {"ppo": {"rollouts": 96, "miniBatchSize": 32}}},
        refuses={"type": "ReFT", "reft": {"ppo": {"rollouts": 96}}},
    ),
    Rule(
        "spec.method", "reft.reward.plugin",
        lambda method: ("plugin" in _part(method, "reward")) == (_reward_type(method) == "plugin"),
        "!has(self.reft) || has(self.reft.reward.plugin) == "
        "(has(self.reft.reward.type) && self.reft.reward.type == 'plugin')",
        "reward type plugin needs the plug-in's name, and no other type takes one",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "by-length"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "plugin"}}},
    ),
    Rule(
        "spec.method", "reft.reward.plugin",
        lambda method: ":" not in _part(method, "reward").get("plugin", ""),
        "!has(self.reft) || !has(self.reft.reward.plugin) || !self.reft.reward.plugin.contains(':')",
        "a plug-in is an entry point of the group finetune.rewards in the trainer's image: write the entry point's "
        "name, not package.module:function",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "my_rewards.by-length"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "rewards:score"}}},
    ),
    Rule(
        "spec.method", "reft.reward.answer",
        lambda method: _reward_type(method) != "program" or "answer" in _part(method, "reward"),
        "!has(self.reft) || !has(self.reft.reward.type) || self.reft.reward.type != 'program' || "
        "has(self.reft.reward.answer)",
        "reward type program needs a template of the right answer, such as answer: '{{ answer }}'",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "program", "answer": "{{ answer }}"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "program"}}},
    ),
    Rule(
        "spec", "method.reft.reward.type",
        lambda spec: _reward_type(spec.get("method", {})) != "fieldsMatch"
        or spec.get("dataset", {}).get("answerFormat", {}).get("type") == "json",
        "!has(self.method) || !has(self.method.reft) || !has(self.method.reft.reward.type) || "
        "self.method.reft.reward.type != 'fieldsMatch' || "
        "(has(self.dataset.answerFormat) && self.dataset.answerFormat.type == 'json')",
        "reward type fieldsMatch compares answers that are JSON: write dataset.answerFormat.type: json, or another "
        "reward type",
        accepts={"method": {"type": "ReFT", "reft": {"reward": {"type": "fieldsMatch"}}},
                 "dataset": {"answerFormat": {"type": "json"}}},
        refuses={"method": {"type": "ReFT", "reft": {"reward": {"type": "fieldsMatch"}}}},
    ),
    Rule(
        "spec.method", "reft.policy",
        lambda method: not _trains_all_weights(method) or (
            method.get("quantization", "none") == "none" and "lora" not in method["reft"]),
        "!has(self.reft) || self.reft.policy != 'Full' || (!has(self.reft.lora) && "
        "(!has(self.quantization) || self.quantization == 'none'))",
        "policy Full trains the base weights, without an adapter, and they cannot be quantized while they are trained: "
        "remove quantization and reft.lora, or write policy: LoRA",
        accepts={"type": "ReFT", "reft": {"policy": "Full"}},
        refuses={"type": "ReFT", "quantization": "nf4", "reft": {"policy": "Full"}},
    ),
    Rule(
        "spec", "method.reft.ppo.miniBatchSize",
        lambda spec: _part(spec.get("method", {}), "ppo").get("miniBatchSize", 64) % processes(spec) == 0
        or spec.get("method", {}).get("type") != "ReFT",
        f"!has(self.method) || !has(self.method.type) || self.method.type != 'ReFT' || "
        f"(has(self.method.reft) ? self.method.reft.ppo.miniBatchSize : 64) % {CEL_PROCESSES} == 0",
        "the responses of a mini-batch are shared equally among all GPUs: write a multiple of compute.nodes × "
        "compute.gpusPerNode (miniBatchSize is 64 by default)",
        accepts={"method": {"type": "ReFT"}, "compute": {"nodes": 2}},
        refuses={"method": {"type": "ReFT"}, "training": {"batchSize": 24}, "compute": {"nodes": 3}},
    ),
)


class Reft(Method[ReftSpec]):
    """A supervised warm-up, then PPO on responses that the model samples."""

    name = "ReFT"
    block = "reft"
    epochs = 2.0
    has_reward = True
    mergeable = MethodCondition(lambda method: not _trains_all_weights(method),
                          "!has(self.method.reft) || self.method.reft.policy != 'Full'")
    rules = _RULES

    def for_json_answers(self, settings: ReftSpec | None) -> ReftSpec:
        """Answers are judged by their fields, if no other reward is written."""
        reft = settings or ReftSpec()
        reward = reft.reward.model_copy(update={"type": reft.reward.type or RewardType.FIELDS_MATCH})
        return reft.model_copy(update={"reward": reward})

    def resolved(self, settings: ReftSpec | None) -> ReftSpec:
        """The settings with the defaults that depend on policy and reward."""
        reft = settings or ReftSpec()
        full = reft.policy is ReftPolicy.FULL
        ppo, reward = reft.ppo, reft.reward
        if reward.type is None:
            reward = reward.model_copy(update={"type": RewardType.FINAL_ANSWER})
        if ppo.learning_rate is None:
            ppo = ppo.model_copy(update={"learning_rate": DEFAULT_PPO_RATES[reft.policy]})
        if ppo.value_learning_rate is None:
            ppo = ppo.model_copy(update={"value_learning_rate": ppo.learning_rate if full else DEFAULT_VALUE_RATE})
        if ppo.kl_coefficient is None:
            programs = reward.type is RewardType.PROGRAM
            ppo = ppo.model_copy(update={
                "kl_coefficient": DEFAULT_KL_COEFFICIENT_OF_PROGRAMS if programs else DEFAULT_KL_COEFFICIENT})
        if reward.timeout is None:
            reward = reward.model_copy(update={"timeout": DEFAULT_PROGRAM_TIMEOUT})
        lora = reft.lora or (None if full else LowRankSpec())
        return reft.model_copy(update={"ppo": ppo, "reward": reward, "lora": lora})

    def learning_rate(self, settings: ReftSpec | None) -> float:
        """That of the warm-up: Full's where all weights learn."""
        return 2e-5 if settings and settings.policy is ReftPolicy.FULL else super().learning_rate(settings)

    def display_name(self, settings: ReftSpec | None, quantization: str) -> str:
        """The method with what learns: `ReFT (QLoRA)`."""
        stored = {"nf4": "Q", "int8": "int8 "}.get(quantization, "")
        return f"{self.name} ({stored}{(settings or ReftSpec()).policy})"

    def low_rank(self, settings: ReftSpec | None) -> tuple[str, LowRankSpec] | None:
        """The policy's adapter."""
        return ("reft.lora", settings.lora) if settings and settings.lora else None

    def can_quantize(self, settings: ReftSpec | None) -> bool:
        """Not where all weights learn."""
        return settings is None or settings.policy is not ReftPolicy.FULL

    def with_frozen_base(self, settings: ReftSpec | None) -> tuple[str, ReftSpec] | None:
        """A LoRA adapter learns instead of all weights."""
        if settings is None or settings.policy is not ReftPolicy.FULL:
            return None
        return "reft.policy: LoRA", settings.model_copy(update={"policy": ReftPolicy.LORA, "lora": LowRankSpec()})

    def rollout_tokens(self, settings: ReftSpec | None, longest_row: int) -> tuple[int, int] | None:
        """The longest row as a prompt, with the longest response that the settings allow."""
        longest = (settings or ReftSpec()).ppo.max_new_tokens
        # Left out, it is a quarter more than the longest answer, which may be nearly all of a row.
        return longest_row + (longest or longest_row // 4), longest or longest_row

    def trained(self, settings: ReftSpec | None, model: Architecture) -> TrainedParameters:
        """What learns, and a frozen copy of it: the reference that PPO compares with."""
        settings = settings or ReftSpec()
        if settings.policy is ReftPolicy.FULL:
            learns = all_parameters(model)
        else:
            learns = low_rank_parameters(settings.lora or LowRankSpec(), model,
                                         magnitude=settings.policy is ReftPolicy.DORA)
        return replace(learns, reference=learns.parameters)
