"""Reinforced fine-tuning (ReFT): what is sampled, what it is worth, and how the policy moves.

Luong et al., 2024, "ReFT: Reasoning with Reinforced Fine-Tuning" (arXiv:2401.08967). The warm-up is supervised and has
no block of its own: `spec.training` describes it, as it describes every other method's training.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.spec.dataset import Template
from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import Duration

# With the colon of `module:function`, which was written once: a rule refuses it and says what to write instead.
PluginName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.:-]*[A-Za-z0-9_])?$", max_length=100)]
REWARD_PLUGINS = "finetune.rewards"
"""The group of entry points that reward plug-ins belong to."""


class ReftPolicy(StrEnum):
    """What of the model learns."""

    LORA = "LoRA"
    DORA = "DoRA"
    FULL = "Full"


class RewardType(StrEnum):
    """How an answer is found in what the model wrote."""

    FINAL_ANSWER = "finalAnswer"
    JSON = "json"
    PROGRAM = "program"
    PLUGIN = "plugin"


class RewardSpec(ApiModel):
    """What a whole response is worth: 1 for a right answer, `partial` for one of the right type, else 0."""

    type: RewardType = RewardType.FINAL_ANSWER
    """`finalAnswer` reads what follows the last `trigger`; `json` compares the fields of one JSON object, with partial
    credit for each; `program` runs the response's Python function `solution` in a sandbox and takes what it returns;
    `plugin` asks a plug-in of the trainer's image."""

    trigger: Annotated[str, Field(min_length=1, max_length=100)] = "####"
    """What the final answer follows, in the data and in responses (`finalAnswer` and, where it occurs, `json`)."""

    answer: Template | None = None
    """Jinja template of the right answer over the row's columns, such as `{{ answer }}`. Left out: found in the row's
    own completion, just as in a response. `program` needs it."""

    tolerance: Annotated[float, Field(ge=0)] = 1e-2
    """Numbers no further apart than this are the same."""

    partial: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Reward for an answer that can be read and has the right answer's type, but is wrong."""

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
    """The same of the value head, whose predictions move by this times the size of the hidden state, which grows with
    the model. Left out: 1e-5 beside an adapter, `learningRate` for all weights (the paper's, one rate for both)."""

    ramp_steps: Annotated[int, Field(ge=0)] = 5
    """Steps in which the learning rates rise to their peaks; no more than `steps`."""

    kl_coefficient: Annotated[float, Field(ge=0)] | None = None
    """Price of a nat of distance from the warm-up's model, per token. Left out: 0.01 for programs, 0.05 else (the
    paper's)."""

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
