"""Phase and conditions of a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Text, Time
from finetune_api.values.api_model import Message


class Phase(StrEnum):
    """Where a job is; derived from its conditions."""

    PENDING = "Pending"
    PREFLIGHT = "Preflight"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    EVALUATING = "Evaluating"
    UPLOADING = "Uploading"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """What conditions tell of; Reconciling and Stalled are kstatus' words."""

    VALIDATED = "Validated"
    ADMITTED = "Admitted"
    PROGRESSING = "Progressing"
    FINISHED = "Finished"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Message):
    """A Kubernetes condition."""

    type: ConditionType
    """What it tells of."""

    status: ConditionStatus
    """Whether it holds."""

    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """One word for machines."""

    message: Text
    """A sentence for people: what happened and what to do."""

    observed_generation: int
    """The generation of the spec that it speaks of."""

    last_transition_time: Time
    """When its status changed last."""
