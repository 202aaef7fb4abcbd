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
    """What the operator saw."""

    phase: Phase | None = None
    """Where the job is."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra={
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})] = ()
    """What is true of it, each with a reason and a sentence; one of each type."""

    observed_generation: int | None = None
    """The generation of the spec that this status speaks of."""

    started_generation: int | None = None
    """The generation of the spec that is being trained."""

    spec_hash: Sha256 | None = None
    """Digest of the spec that is being trained."""

    stage: Annotated[str, Field(max_length=64)] | None = None
    """What the trainer does."""

    preflight: PreflightStatus | None = None
    """What the check before the start found."""

    progress: Progress | None = None
    """How far the training is."""

    cost: Cost | None = None
    """What it costs."""

    memory: Memory | None = None
    """What memory it takes."""

    evaluation: EvaluationScores | None = None
    """Scores on the held-out rows."""

    attempts: Annotated[tuple[Attempt, ...], Field(max_length=10)] = ()
    """The last ten runs of the trainer."""

    retries: Retries | None = None
    """How often the trainer was started again."""

    adapter: PublishedAdapter | None = None
    """What was published."""

    image: Text | None = None
    """The trainer image of every attempt: by digest once a node has pulled it."""

    start_time: Time | None = None
    """When the first attempt was started; from then on the spec is fixed but for runPolicy and budget."""

    completion_time: Time | None = None
    """When it was done."""


def _unseen(kind: ConditionType, holds: ConditionStatus) -> dict[str, Any]:
    return Condition(type=kind, status=holds, reason=Reason.NOT_LOOKED_AT,
                     message="no operator has looked at the job yet: see that one runs and serves this namespace",
                     observed_generation=0, last_transition_time=datetime.fromtimestamp(0, UTC)).model_dump(mode="json")


UNSEEN_STATUS: dict[str, Any] = {
    "phase": Phase.PENDING.value,
    "conditions": [_unseen(ConditionType.PROGRESSING, ConditionStatus.UNKNOWN),
                   _unseen(ConditionType.RECONCILING, ConditionStatus.TRUE)],
}
"""What the apiserver shows of a job whose status nobody has written: no column is blank, and kstatus waits."""
