"""DoRA and QDoRA: each weight is split into magnitude and direction; LoRA trains the direction.

Liu et al., 2024 (arXiv:2402.09353).
"""

from __future__ import annotations

from finetune_api.spec.method import DoraSpec

from finetune_trainer.methods.dora.layer import cached_norms
from finetune_trainer.methods.lora.attach import attach
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Attach the adapter and train it; errors as in `fine_tune`, and `BadConfig` for unknown target modules."""
    settings = run.spec.method.dora or DoraSpec()
    model = attach(run, settings, "spec.method.dora", dora=True)
    adapter = PeftAdapter(model, settings.learning_rate_ratio or 1.0)
    if not settings.kept_norms:
        return fine_tune(run, adapter)
    with cached_norms(model, run.state.note):
        return fine_tune(run, adapter)
