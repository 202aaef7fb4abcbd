"""What a trainer answers while it runs."""

from __future__ import annotations

from enum import StrEnum

from finetune_api.status import Cost, Memory, Progress
from finetune_api.values.api_model import Message


class Stage(StrEnum):
    """What a trainer is doing."""

    LOADING = "loading"
    PREPARING_DATA = "preparing data"
    EVALUATING_BEFORE = "evaluating before"
    TRAINING = "training"
    WARM_UP = "warming up"
    PPO = "PPO"
    EVALUATING_AFTER = "evaluating after"
    EXPORTING = "exporting"
    PUBLISHING = "publishing"
    DONE = "done"


class ProgressMessage(Message):
    """What `/progress` answers: for display only."""

    stage: Stage
    """What it is doing."""

    progress: Progress | None = None
    """How far the training is."""

    cost: Cost | None = None
    """What this attempt costs."""

    memory: Memory | None = None
    """What memory it takes."""

    resumed_from_step: int = 0
    """The checkpoint that it went on from."""

    checkpoint_step: int = 0
    """The newest checkpoint that is complete in the output."""
