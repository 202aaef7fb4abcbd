"""LoRA and QLoRA: low-rank updates beside frozen weights, which nf4 or int8 may store.

Hu et al., 2021 (arXiv:2106.09685); Dettmers et al., 2023 (arXiv:2305.14314). The update may start from PiSSA (Meng et
al., 2024, arXiv:2404.02948) or LoftQ (Li et al., 2023, arXiv:2310.08659), and B may learn faster than A (LoRA+, Hayou
et al., 2024, arXiv:2402.12354).
"""

from __future__ import annotations

from pathlib import Path

from finetune_api.spec.method import Initialization, LoraSpec

from finetune_trainer.methods.lora.attach import attach
from finetune_trainer.methods.lora.loftq import start_from_quantization_error
from finetune_trainer.methods.lora.pissa import FROM_LARGEST_SINGULAR_VALUES, PissaAdapter
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Attach the adapter and train it; errors as in `fine_tune`, and `BadConfig` for unknown target modules."""
    settings = run.spec.method.lora or LoraSpec()
    field, ratio = "spec.method.lora", settings.learning_rate_ratio or 1.0
    if settings.initialization is Initialization.PISSA:
        model = attach(run, settings, field, start=FROM_LARGEST_SINGULAR_VALUES)
        return fine_tune(run, PissaAdapter(model, ratio, run.scratch / "pissa"))
    model = attach(run, settings, field)
    if settings.initialization is Initialization.LOFTQ:
        start_from_quantization_error(model, Path(run.model.name_or_path))
    return fine_tune(run, PeftAdapter(model, ratio))
