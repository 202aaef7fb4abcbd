"""The attempts of a job and its retries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Count, Time
from finetune_api.values.api_model import Message

LAST_NUMBER = 999_999_999
"""Highest number of an attempt."""


class Retries(Message):
    """Number of retries. A newer checkpoint sets each count to 0."""

    counted: Count = 0
    """Retries after an attempt that ended for an unknown reason, at most `runPolicy.backoffLimit`."""

    without_progress: Count = 0
    """Free retries in a row (after a preemption or a drained node) without a newer checkpoint, at most ten."""

    unstarted: int = 0
    """Attempts in a row that a node refused, or that could not start although an earlier one could. The wait for the
    next attempt grows with this number."""


class Attempt(Message):
    """One run of the trainer."""

    number: Annotated[int, Field(ge=1, le=LAST_NUMBER)]
    """Number of the attempt, from 1. The name of its Job ends with it."""

    reason: Annotated[str, Field(max_length=64)]
    """Why it ended; `Running` until then."""

    start_time: Time
    """When its pod was scheduled. From then on it costs money."""

    end_time: Time | None = None
    """When its pod ended, with all containers. Until then its node is occupied and paid for."""

    node: Annotated[str, Field(max_length=253)] | None = None
    """The node that it ran on; of several nodes, the one that explains its end."""

    exit_code: int | None = None
    """Exit code of its trainer, if there is one."""

    message: Annotated[str, Field(max_length=1024)] | None = None
    """How it ended, as the trainer, the kubelet or the evicting component says."""

    resumed_from_step: Count | None = None
    """The step of the checkpoint that it resumed from; 0 if it started from the beginning."""

    last_step: Count | None = None
    """The last step that it reported."""

    checkpoint_step: Count | None = None
    """The step of the newest checkpoint that it reported as complete."""

    lost_steps: Count | None = None
    """Steps of the attempt before that it had to repeat."""
