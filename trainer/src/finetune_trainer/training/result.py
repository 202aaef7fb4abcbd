"""What a method returns after training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.trained_model import TrainedModel


@dataclass(frozen=True)
class RolloutExample:
    """One sampled response, for the report.

    Attributes:
        question: the question that the model was asked.
        right_answer: the right answer of the row; empty if the row has none.
        response: the text that the model sampled.
        reward: the reward of the response, 0 to 1.
    """

    question: str
    right_answer: str
    response: str
    reward: float


@dataclass(frozen=True)
class TrainingResult:
    """A trained model, and how its training went.

    Attributes:
        trained_model: the model, with access to what was trained in it.
        step: optimizer steps done.
        total_steps: optimizer steps planned.
        resumed_from_step: the step of the checkpoint that training resumed from; 0 if it started anew.
        micro_batch_size: rows per forward pass at the end.
        trainable_parameters: the number of trained parameters.
        stopped_early: why training ended before the last step, or None.
        remark: a sentence that belongs to the result, or None.
        rollouts: sampled responses to show.
        checkpointing: which layers were checkpointed at the end, in words; None if none were.
    """

    trained_model: TrainedModel
    step: int
    total_steps: int
    resumed_from_step: int
    micro_batch_size: int
    trainable_parameters: int
    stopped_early: str | None
    remark: str | None = None
    rollouts: tuple[RolloutExample, ...] = ()
    checkpointing: str | None = None
