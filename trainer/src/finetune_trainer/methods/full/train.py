"""Full fine-tuning: every weight of the model is trained."""

from __future__ import annotations

from finetune_trainer.model.structure.layers import text_parameters
from finetune_trainer.trained_model.whole_model import WholeModel
from finetune_trainer.training.base_weights import train_base_weights
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Train all weights that text goes through; errors as in `fine_tune`."""
    names = set(text_parameters(run.model))
    return train_base_weights(run, names, lambda model: WholeModel(model, run.tokenizer))
