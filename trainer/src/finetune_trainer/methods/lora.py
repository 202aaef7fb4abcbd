"""LoRA and QLoRA: low-rank updates beside frozen weights, which nf4 or int8 may store.

Hu et al., 2021 (arXiv:2106.09685); Dettmers et al., 2023 (arXiv:2305.14314).
"""

from __future__ import annotations

from finetune_api.spec.method import Engine, LoraSpec
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import set_seed

from finetune_trainer.engines import unsloth
from finetune_trainer.model.targets import target_modules
from finetune_trainer.training.run import Trained, TrainingRun
from finetune_trainer.training.sft import train_adapter


def train(run: TrainingRun) -> Trained:
    """Attach the adapter and train it; errors as in `train_adapter`, and `BadConfig` for unknown target modules."""
    settings = run.spec.method.lora
    assert settings is not None
    return train_adapter(run, attach(run, settings, "spec.method.lora"))


def attach(run: TrainingRun, settings: LoraSpec, field: str, dora: bool = False) -> PeftModel:
    """The run's model with a fresh adapter, whose weights depend on the seed alone; it changes nothing yet (B = 0)."""
    set_seed(run.spec.training.seed)
    if run.spec.engine is Engine.UNSLOTH:
        adapted: PeftModel = unsloth.attach(run.model, run.spec, settings,
                                            target_modules(run.model, settings.target_modules, field))
        return adapted
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=dora,
        target_modules=target_modules(run.model, settings.target_modules, field),
        bias="none",
        task_type="CAUSAL_LM",
    )
    # autocast_adapter_dtype keeps the adapter in float32 whatever the base computes in.
    return get_peft_model(run.model, config, autocast_adapter_dtype=True)
