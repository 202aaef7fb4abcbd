"""How the model is evaluated, before and after training, on rows that it was not trained on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.spec.model import SecretRef
from finetune_api.values.api_model import ApiModel
from finetune_api.values.uris import HttpAddress


class Metric(StrEnum):
    """A metric. Shares and scores are between 0 and 1; loss is in nats per answer token."""

    LOSS = "loss"
    PERPLEXITY = "perplexity"
    ANSWER_ACCURACY = "answerAccuracy"
    EXACT_MATCH = "exactMatch"
    JSON_VALID = "jsonValid"
    SCHEMA_VALID = "schemaValid"
    FIELDS_MATCH = "fieldsMatch"
    FIELD_ACCURACY = "fieldAccuracy"
    FIELD_F1_MACRO = "fieldF1Macro"
    FIELD_F1_MICRO = "fieldF1Micro"


LOWER_IS_BETTER = frozenset({Metric.LOSS, Metric.PERPLEXITY})
JSON_METRICS = frozenset({Metric.JSON_VALID, Metric.SCHEMA_VALID, Metric.FIELDS_MATCH, Metric.FIELD_ACCURACY,
                          Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO})
METRICS_OF_FIELDS = frozenset({Metric.FIELD_ACCURACY, Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO})
"""Metrics that have one score per field of the answers."""


class GateSpec(ApiModel):
    """The smallest improvement that training must reach. Below it the job fails with QualityGate; the adapter is
    kept."""

    metric: Metric
    """The metric to compare before and after."""

    minimum_gain: Annotated[float, Field(ge=0)] = 0.0
    """Smallest improvement, in the metric's unit: after minus before; for loss and perplexity, before minus after."""


class ReferenceSpec(ApiModel):
    """Another model to compare with, behind an OpenAI-compatible endpoint. It answers the same held-out questions, at
    most 200, while the job trains. If it fails, the result says so and the job goes on.
    """

    url: HttpAddress
    """Base address of the endpoint, such as `https://api.openai.com/v1`."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of the model there, such as `gpt-4`."""

    api_key_secret_ref: SecretRef | None = None
    """Secret whose key `OPENAI_API_KEY` authenticates to the endpoint."""


class EvaluationSpec(ApiModel):
    """Evaluation on held-out rows: the loss, and answers from greedy decoding."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=16)] | None = None
    """Metrics to measure. Default: all that the answer format allows."""

    samples: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Evaluate at most this many held-out rows, the same before and after training. `training.seed` chooses them; each
    question comes once before any comes twice."""

    baseline: bool = True
    """Also evaluate the model before training."""

    constrained: bool = False
    """Evaluate a second time with decoding that is limited to what the answer's JSON Schema allows. The report has both
    results."""

    max_new_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    """Longest generated answer in tokens. Default: a quarter more than the longest expected answer. A model with a
    fixed table of positions (GPT-2, OPT) stops at the end of that table."""

    reference: ReferenceSpec | None = None
    """Another model to compare with."""

    gate: GateSpec | None = None
    """Smallest improvement that counts as success. Default: any result is a success."""
