"""What the check before the start found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Text, Time
from finetune_api.values.api_model import Message, Sha256
from finetune_api.values.quantities import Money


class AcceleratorChoice(Message):
    """What `compute.accelerator: auto` means for a job."""

    name: Annotated[str, Field(max_length=253)]
    """The accelerator's name in the catalogue. Every attempt uses it."""

    reason: Annotated[str, Field(max_length=512)]
    """Why: its estimated cost, the next best, and what the job does not fit on."""

    next_best: Annotated[str, Field(max_length=253)] | None = None
    """The accelerator with the next lowest estimated cost, if the job fits on another one."""


class PreflightStatus(Message):
    """Result of the preflight check, and its retries."""

    generation: int
    """The generation of the spec that was checked."""

    failures: int = 0
    """Checks of this generation that failed without a result, at most `runPolicy.backoffLimit`."""

    failed_at: Time | None = None
    """When the last of those checks ended."""

    node: Annotated[str, Field(max_length=253)] | None = None
    """The node that refused the last of those checks, if one did. The next check prefers other nodes."""

    refused: Annotated[str, Field(max_length=64)] | None = None
    """Reason of the rejection in one word. The condition Validated has the message."""

    message: Text | None = None
    """Message of the rejection."""

    model_revision: Annotated[str, Field(max_length=200)] | None = None
    """Commit of the model on the hub that every attempt trains."""

    data_hash: Sha256 | None = None
    """SHA-256 digest of the rows that were checked."""

    hours: float | None = None
    """Estimated hours of training."""

    cost: Money | None = None
    """Estimated cost of those hours; only for a job of an experiment, which waits for its turn."""

    checked_hash: Sha256 | None = None
    """SHA-256 digest of what was checked: the spec without runPolicy and limits of the budget. Only for a job of an
    experiment: it is not checked again when its turn comes."""

    accelerator: AcceleratorChoice | None = None
    """The accelerator that the check chose; only with `compute.accelerator: auto`."""

    checkpoint_bytes: int | None = None
    """Estimated size of a checkpoint in bytes. A pod that is asked to stop gets the time to upload one."""
