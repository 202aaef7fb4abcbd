"""Full fine-tuning: every weight of the model is trained."""

from __future__ import annotations

from finetune_trainer.model.structure.layers import text_parameters
from finetune_trainer.trained_model.in_place import WholeModel
from finetune_trainer.training.in_place import train_in_place
from finetune_trainer.training.run import Trained, TrainingRun


def train(run: TrainingRun) -> Trained:
    """Train all weights that text goes through; errors as in `fine_tune`."""
    names = set(text_parameters(run.model))
    return train_in_place(run, names, lambda model: WholeModel(model, run.tokenizer))
