"""The status of a job, as `kubectl describe` shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from finetune_api.reasons import Reason
from finetune_api.status.adapter import PublishedAdapter
from finetune_api.status.attempts import Attempt, Retries
from finetune_api.status.conditions import Condition, ConditionStatus, ConditionType, Phase
from finetune_api.status.cost import Cost, Memory
from finetune_api.status.evaluation import EvaluationScores
from finetune_api.status.field_types import Text, Time
from finetune_api.status.preflight import PreflightStatus
from finetune_api.status.progress import Progress
from finetune_api.values.api_model import Message, Sha256


class FineTuneJobStatus(Message):
    """What the operator observed."""

    phase: Phase | None = None
    """Phase of the job, derived from its conditions."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra={
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})] = ()
    """Conditions of the job, one per type, each with a reason and a message."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""

    started_generation: int | None = None
    """The generation of the spec that is trained."""

    spec_hash: Sha256 | None = None
    """SHA-256 digest of the spec that is trained."""

    stage: Annotated[str, Field(max_length=64)] | None = None
    """Stage of the trainer, such as `training`."""

    preflight: PreflightStatus | None = None
    """What the check before the start found."""

    progress: Progress | None = None
    """How far the training is."""

    cost: Cost | None = None
    """Cost of the job."""

    memory: Memory | None = None
    """Memory of the job."""

    evaluation: EvaluationScores | None = None
    """Scores on the held-out rows."""

    attempts: Annotated[tuple[Attempt, ...], Field(max_length=10)] = ()
    """The last ten attempts."""

    retries: Retries | None = None
    """Number of retries."""

    adapter: PublishedAdapter | None = None
    """What the job published."""

    image: Text | None = None
    """The trainer image of every attempt, with its digest once a node has pulled it."""

    start_time: Time | None = None
    """When the job started. From then on only runPolicy and budget of the spec can change."""

    completion_time: Time | None = None
    """When the job finished."""


def _unseen(kind: ConditionType, holds: ConditionStatus) -> dict[str, Any]:
    return Condition(type=kind, status=holds, reason=Reason.NOT_LOOKED_AT,
                     message="no operator has processed the job yet: check that one runs and serves this namespace",
                     observed_generation=0, last_transition_time=datetime.fromtimestamp(0, UTC)).model_dump(mode="json")


UNSEEN_STATUS: dict[str, Any] = {
    "phase": Phase.PENDING.value,
    "conditions": [_unseen(ConditionType.PROGRESSING, ConditionStatus.UNKNOWN),
                   _unseen(ConditionType.RECONCILING, ConditionStatus.TRUE)],
}
"""What the apiserver shows for a job without a status: every column has a value, and kstatus waits."""
