"""Partial fine-tuning: chosen parameters of the model are trained in place, all else stays frozen.

Biases alone are BitFit (Ben Zaken et al., 2021, arXiv:2106.10199).
"""

from __future__ import annotations

from finetune_trainer.methods.partial.changed_parameters import ChangedParameters
from finetune_trainer.model.structure.layers import chosen_parameters
from finetune_trainer.training.base_weights import train_base_weights
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Train the chosen parameters; errors as in `fine_tune`, and `BadConfig` where the choice fits nothing."""
    settings = run.spec.method.partial
    assert settings is not None
    names = set(chosen_parameters(run.model, settings))
    description = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    return train_base_weights(run, names, lambda model: ChangedParameters(model, description))
