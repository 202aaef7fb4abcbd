"""How the model is judged, before and after, on rows that it did not learn from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.spec.model import SecretRef
from finetune_api.values.api_model import ApiModel
from finetune_api.values.uris import HttpAddress


class Metric(StrEnum):
    """What can be measured. Shares and scores are between 0 and 1; loss is in nats per answer token."""

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
"""Each field of the answers has its own score."""


class GateSpec(ApiModel):
    """The least that training must bring. Below it the job ends as QualityGate; the adapter is kept."""

    metric: Metric
    """The metric to compare before and after."""

    minimum_gain: Annotated[float, Field(ge=0)] = 0.0
    """Smallest improvement: after minus before, or before minus after for loss and perplexity."""


class ReferenceSpec(ApiModel):
    """A model to compare with, behind an OpenAI-compatible endpoint: it answers the same held-out questions, 200
    at most, while the job's model is trained. Where it fails, the result says so; no job fails for it.
    """

    url: HttpAddress
    """Base address of the endpoint, such as `https://api.openai.com/v1`."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of the model there, such as `gpt-4`."""

    api_key_secret_ref: SecretRef | None = None
    """Secret whose key `OPENAI_API_KEY` opens the endpoint."""


class EvaluationSpec(ApiModel):
    """Evaluation on held-out rows: loss, and answers generated greedily."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=16)] | None = None
    """What to measure. Left out: all that the answer format allows."""

    samples: Annotated[int, Field(ge=1, le=100_000)] = 100
    """At most this many held-out rows, chosen by `training.seed`, each question once before any a second time; the same
    rows before and after."""

    baseline: bool = True
    """Also measure the model before training."""

    constrained: bool = False
    """Measure a second time with decoding that can only write what the answer's JSON Schema allows. Reported apart."""

    max_new_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    """Longest generated answer in tokens. Left out: a quarter more than the longest expected answer. Where a model
    looks positions up in a table (GPT-2, OPT), an answer ends with the table."""

    reference: ReferenceSpec | None = None
    """Another model to compare with."""

    gate: GateSpec | None = None
    """The least improvement that counts as success."""
