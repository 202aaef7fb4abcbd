"""Filling in what a user left out, and the digest of what decides a result."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

from finetune_api.spec.dataset import AnswerType
from finetune_api.spec.evaluation import JSON_METRICS, Metric
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import (
    VIRTUAL_TOKENS,
    AdditiveSpec,
    DoraSpec,
    Engine,
    LoraSpec,
    LowRankSpec,
    MethodSpec,
    MethodType,
    ReftSpec,
    Technique,
)
from finetune_api.spec.reft import ReftPolicy, RewardType
from finetune_api.spec.training import Toggle

DEFAULT_EPOCHS = 3.0
DEFAULT_LEARNING_RATE = 2e-4
DEFAULT_VIRTUAL_TOKENS = 20
DEFAULT_BOTTLENECK_SIZE = 64
DEFAULT_EVALUATION_FRACTION = 0.1
DEFAULT_WARM_UP_EPOCHS = 2.0
DEFAULT_PPO_RATES = {ReftPolicy.LORA: 2e-4, ReftPolicy.DORA: 2e-4, ReftPolicy.FULL: 3e-7}
DEFAULT_VALUE_RATE = 1e-5
"""Beside an adapter: the head is none, and has to move as slowly as whole models do."""
DEFAULT_PROGRAM_TIMEOUT = timedelta(seconds=2)
DEFAULT_KL_COEFFICIENT = 0.05
DEFAULT_KL_COEFFICIENT_OF_PROGRAMS = 0.01

# What few numbers are trained, or begin at nothing, has to move faster than what was learnt before.
_LEARNING_RATES: dict[MethodType | Technique, float] = {
    MethodType.FULL: 2e-5,
    Technique.IA3: 1e-2,
    Technique.PROMPT_TUNING: 3e-2,
    Technique.PREFIX_TUNING: 3e-2,
    Technique.BOTTLENECK: 1e-3,
}
_PARTIAL_LAYERS_RATE = 5e-5
_PARTIAL_PARAMETERS_RATE = 5e-4

_DECIDES_NOTHING: dict[str, Any] = {"compute": True, "budget": True, "run_policy": True, "output": {"s3", "uri"}}


def resolve_defaults(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """The spec with every default that is known without model and data; what is written stays as it is."""
    data, training, method, evaluation = spec.dataset, spec.training, spec.method, spec.evaluation
    if data.evaluation_split is None and data.evaluation_fraction is None:
        data = data.model_copy(update={"evaluation_fraction": DEFAULT_EVALUATION_FRACTION})
    if training.epochs is None and training.max_steps is None:
        epochs = DEFAULT_WARM_UP_EPOCHS if method.type is MethodType.REFT else DEFAULT_EPOCHS
        training = training.model_copy(update={"epochs": epochs})
    method = _method(method)
    if training.learning_rate is None:
        training = training.model_copy(update={"learning_rate": _learning_rate(method)})
    # Virtual tokens stand before one row; and whether Unsloth's attention keeps packed rows apart has not been seen.
    if spec.engine is Engine.UNSLOTH or (method.additive and method.additive.technique in VIRTUAL_TOKENS):
        training = training.model_copy(update={"packing": False})
    if method.additive and method.additive.technique is Technique.PREFIX_TUNING:
        training = training.model_copy(update={"gradient_checkpointing": Toggle.DISABLED})
    if evaluation.metrics is None:
        evaluation = evaluation.model_copy(update={"metrics": _metrics(spec)})
    return spec.model_copy(update={"dataset": data, "training": training, "method": method, "evaluation": evaluation})


def _method(method: MethodSpec) -> MethodSpec:
    if method.type is MethodType.LORA and method.lora is None:
        return method.model_copy(update={"lora": LoraSpec()})
    if method.type is MethodType.DORA and method.dora is None:
        return method.model_copy(update={"dora": DoraSpec()})
    if method.type is MethodType.REFT:
        return _reft(method)
    if method.type is not MethodType.ADDITIVE:
        return method
    additive = method.additive or AdditiveSpec()
    if additive.technique in VIRTUAL_TOKENS and additive.virtual_tokens is None:
        additive = additive.model_copy(update={"virtual_tokens": DEFAULT_VIRTUAL_TOKENS})
    if additive.technique is Technique.BOTTLENECK and additive.bottleneck_size is None:
        additive = additive.model_copy(update={"bottleneck_size": DEFAULT_BOTTLENECK_SIZE})
    return method.model_copy(update={"additive": additive})


def _learning_rate(method: MethodSpec) -> float:
    if method.type is MethodType.PARTIAL and method.partial:
        return _PARTIAL_PARAMETERS_RATE if method.partial.parameters else _PARTIAL_LAYERS_RATE
    kind = method.additive.technique if method.additive else method.type
    if method.reft and method.reft.policy is ReftPolicy.FULL:
        kind = MethodType.FULL
    return _LEARNING_RATES.get(kind, DEFAULT_LEARNING_RATE)


def _reft(method: MethodSpec) -> MethodSpec:
    reft = method.reft or ReftSpec()
    ppo = reft.ppo
    if ppo.learning_rate is None:
        ppo = ppo.model_copy(update={"learning_rate": DEFAULT_PPO_RATES[reft.policy]})
    if ppo.value_learning_rate is None:
        full = reft.policy is ReftPolicy.FULL
        ppo = ppo.model_copy(update={"value_learning_rate": ppo.learning_rate if full else DEFAULT_VALUE_RATE})
    if ppo.kl_coefficient is None:
        programs = reft.reward.type is RewardType.PROGRAM
        ppo = ppo.model_copy(update={
            "kl_coefficient": DEFAULT_KL_COEFFICIENT_OF_PROGRAMS if programs else DEFAULT_KL_COEFFICIENT})
    reward = reft.reward
    if reward.timeout is None:
        reward = reward.model_copy(update={"timeout": DEFAULT_PROGRAM_TIMEOUT})
    lora = reft.lora or (None if reft.policy is ReftPolicy.FULL else LowRankSpec())
    return method.model_copy(update={"reft": reft.model_copy(update={"ppo": ppo, "reward": reward, "lora": lora})})


def _metrics(spec: FineTuneJobSpec) -> tuple[Metric, ...]:
    answer = spec.dataset.answer_format
    impossible = set() if answer.type is AnswerType.JSON else set(JSON_METRICS)
    if answer.json_schema is None:
        impossible.add(Metric.SCHEMA_VALID)
    if spec.method.type is not MethodType.REFT:
        impossible.add(Metric.ANSWER_ACCURACY)
    return tuple(metric for metric in Metric if metric not in impossible)


def spec_hash(spec: FineTuneJobSpec) -> str:
    """Digest of the part of a resolved spec that decides the result: not where it runs, what it may cost, or how it is
    kept.
    """
    content = spec.model_dump(mode="json", exclude_none=True, exclude=_DECIDES_NOTHING)
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
