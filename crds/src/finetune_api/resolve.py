"""Sets the defaults of a spec, and makes the digest of what decides a result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from finetune_api.spec.dataset import AnswerType
from finetune_api.spec.evaluation import JSON_METRICS, Metric
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Engine
from finetune_api.spec.training import Kernels, Toggle

DEFAULT_EVALUATION_FRACTION = 0.1

_DECIDES_NOTHING: dict[str, Any] = {"compute": True, "budget": True, "run_policy": True, "output": {"s3", "uri"}}


def resolve_defaults(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """The spec with every default that does not depend on model and data. Fields that are set stay as they are."""
    data, training, evaluation = spec.dataset, spec.training, spec.evaluation
    definition, method = spec.method.definition, spec.method
    if data.answer_format.type is AnswerType.JSON:
        method = method.with_settings(definition.for_json_answers(method.settings))
    method = method.resolved
    if data.evaluation_split is None and data.evaluation_fraction is None:
        data = data.model_copy(update={"evaluation_fraction": DEFAULT_EVALUATION_FRACTION})
    if training.epochs is None and training.max_steps is None:
        training = training.model_copy(update={"epochs": definition.epochs})
    if training.learning_rate is None:
        training = training.model_copy(update={"learning_rate": definition.learning_rate(method.settings)})
    if not definition.packs_rows(method.settings):
        training = training.model_copy(update={"packing": False})
    if not definition.allows_checkpointing(method.settings):
        training = training.model_copy(update={"gradient_checkpointing": Toggle.DISABLED})
    if training.kernels is Kernels.AUTO:
        # The field is newer than stored specs, whose digests have none.
        training = training.model_copy(update={"kernels": None})
    if evaluation.metrics is None:
        evaluation = evaluation.model_copy(update={"metrics": _metrics(spec)})
    return spec.model_copy(update={"dataset": data, "training": training, "method": method, "evaluation": evaluation})


def _metrics(spec: FineTuneJobSpec) -> tuple[Metric, ...]:
    answer = spec.dataset.answer_format
    impossible = set() if answer.type is AnswerType.JSON else set(JSON_METRICS)
    if answer.json_schema is None:
        impossible.add(Metric.SCHEMA_VALID)
    if not spec.method.definition.has_reward:
        impossible.add(Metric.ANSWER_ACCURACY)
    return tuple(metric for metric in Metric if metric not in impossible)


def spec_hash(spec: FineTuneJobSpec) -> str:
    """Digest of the part of a resolved spec that decides the result: not where it runs, what it may cost, or how it is
    kept.
    """
    content = spec.model_dump(mode="json", exclude_none=True, exclude=_DECIDES_NOTHING)
    if spec.engine is Engine.UNSLOTH:
        # Earlier releases never packed Unsloth's rows; packing changes speed and memory, and only rounding in results.
        content["training"]["packing"] = False
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
