"""DoRA and QDoRA: each weight split into magnitude and direction; the direction gets LoRA, the magnitude is trained.

Liu et al., 2024 (arXiv:2402.09353).
"""

from __future__ import annotations

from finetune_trainer.methods.dora.layer import keep_norms, start_at_norms
from finetune_trainer.methods.lora.train import attach
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Attach the adapter and train it; errors as in `fine_tune`, and `BadConfig` for unknown target modules."""
    settings = run.spec.method.dora
    assert settings is not None
    model = attach(run, settings, "spec.method.dora", dora=True)
    if settings.kept_norms:
        if not keep_norms(model):
            run.state.note("DoRA runs at PEFT's own speed: its layers are not of the kind whose norms can be kept")
        # The magnitudes start as the norms of the (dequantised) weights, so the model is unchanged at first.
        start_at_norms(model)
    return fine_tune(run, PeftAdapter(model, settings.learning_rate_ratio or 1.0))
