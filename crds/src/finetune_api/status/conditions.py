"""Phase and conditions of a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Text, Time
from finetune_api.values.api_model import Message


class Phase(StrEnum):
    """Phase of a job, derived from its conditions."""

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
    """Type of a condition. Reconciling and Stalled follow kstatus."""

    VALIDATED = "Validated"
    ADMITTED = "Admitted"
    PROGRESSING = "Progressing"
    FINISHED = "Finished"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionStatus(StrEnum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Message):
    """A Kubernetes condition."""

    type: ConditionType
    """Type of the condition."""

    status: ConditionStatus
    """`True`, `False` or `Unknown`."""

    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """Reason in one word, for programs."""

    message: Text
    """What happened and what to do, for people."""

    observed_generation: int
    """The generation of the spec that the condition is about."""

    last_transition_time: Time
    """When the status of the condition changed last."""
