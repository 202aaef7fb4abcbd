"""The runs of the trainer, and how often it was started again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Count, Time
from finetune_api.values.api_model import Message

LAST_NUMBER = 999_999_999
"""Of attempts."""


class Retries(Message):
    """How often the trainer was started again; counted anew after each newer checkpoint."""

    counted: Count = 0
    """After an ending for an unknown reason; `runPolicy.backoffLimit` is the most."""

    without_progress: Count = 0
    """Free retries in a row (a preemption, a drained node) that brought no newer checkpoint; ten is the most."""

    unstarted: int = 0
    """Attempts in a row that a node refused, or that could not start where an earlier one could; the wait for the next
    grows with them."""


class Attempt(Message):
    """One run of the trainer."""

    number: Annotated[int, Field(ge=1, le=LAST_NUMBER)]
    """Its number, from 1: it is the end of its Job's name."""

    reason: Annotated[str, Field(max_length=64)]
    """How it ended; `Running` until then."""

    start_time: Time
    """When its pod was scheduled: from then on it costs money."""

    end_time: Time | None = None
    """When its pod ended, and with it every other container there; until then its node is held and paid for."""

    node: Annotated[str, Field(max_length=253)] | None = None
    """The node it ran on; of several, the one that explains its end."""

    exit_code: int | None = None
    """Exit code of its trainer, where it came to one."""

    message: Annotated[str, Field(max_length=1024)] | None = None
    """How it ended, in the words of the trainer, the kubelet or whoever took the node away."""

    resumed_from_step: Count | None = None
    """The checkpoint that it went on from; 0 from the start."""

    last_step: Count | None = None
    """The last step that it was seen at."""

    checkpoint_step: Count | None = None
    """The newest checkpoint that it was seen to complete."""

    lost_steps: Count | None = None
    """Steps of the attempt before that had to be done again."""
