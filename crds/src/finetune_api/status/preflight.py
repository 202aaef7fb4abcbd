"""What the check before the start found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Text, Time
from finetune_api.values.api_model import Message, Sha256


class PreflightStatus(Message):
    """What the check before the start found, and how often it was tried."""

    generation: int
    """The generation of the spec that was checked."""

    failures: int = 0
    """Checks of this generation that ended without an answer; `runPolicy.backoffLimit` is the most."""

    failed_at: Time | None = None
    """When the last of these ended."""

    node: Annotated[str, Field(max_length=253)] | None = None
    """The node that refused the last of these, if one did; the next goes elsewhere where it can."""

    refused: Annotated[str, Field(max_length=64)] | None = None
    """Why the spec can't work, in one word; the condition Validated has the sentence."""

    message: Text | None = None
    """The sentence of a refusal."""

    model_revision: Annotated[str, Field(max_length=200)] | None = None
    """The commit of the hub's model that every attempt trains."""

    data_hash: Sha256 | None = None
    """Digest of the rows as they were seen."""

    hours: float | None = None
    """Hours that training is expected to take."""

    checkpoint_bytes: int | None = None
    """Expected size of a checkpoint; a pod that is asked to stop gets the time to upload one."""
