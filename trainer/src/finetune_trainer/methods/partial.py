"""Partial fine-tuning: chosen parameters of the model are trained in place, all else stays frozen.

Biases alone are BitFit (Ben Zaken et al., 2021, arXiv:2106.10199).
"""

from __future__ import annotations

from finetune_trainer.model.layers import chosen_parameters
from finetune_trainer.training.run import Trained, TrainingRun
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.tuned.in_place import ChangedParameters, thaw


def train(run: TrainingRun) -> Trained:
    """Train the chosen parameters; errors as in `fine_tune`, and `BadConfig` where the choice fits nothing."""
    settings = run.spec.method.partial
    assert settings is not None
    thaw(list(chosen_parameters(run.model, settings).values()))
    chosen = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    trained = fine_tune(run, ChangedParameters(run.model, chosen))
    # What is evaluated is what is published: in the type that the base is in.
    run.model.to(run.device.dtype)
    return trained
