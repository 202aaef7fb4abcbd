"""Full fine-tuning: every weight of the model is trained."""

from __future__ import annotations

from finetune_trainer.training.run import Trained, TrainingRun
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.tuned.in_place import WholeModel, thaw


def train(run: TrainingRun) -> Trained:
    """Train all weights; errors as in `fine_tune`."""
    # The weights are kept in float32; on a GPU a forward pass rounds them to bfloat16 as it goes.
    thaw(list(run.model.parameters()))
    trained = fine_tune(run, WholeModel(run.model, run.tokenizer))
    # What is evaluated is what is published: in the type that the base was in.
    run.model.to(run.device.dtype)
    return trained
