"""What a trainer answers while it runs."""

from __future__ import annotations

from enum import StrEnum

from finetune_api.status import Cost, Memory, Progress
from finetune_api.values.api_model import Message


class Stage(StrEnum):
    """Stage of a trainer."""

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
    """The answer of `/progress`, for display only."""

    stage: Stage
    """Stage of the trainer."""

    progress: Progress | None = None
    """How far the training is."""

    cost: Cost | None = None
    """Cost of the job so far."""

    memory: Memory | None = None
    """Memory of the trainer."""

    resumed_from_step: int = 0
    """The step of the checkpoint that it resumed from."""

    checkpoint_step: int = 0
    """The step of the newest complete checkpoint in the output."""
