"""LoRA and QLoRA: low-rank updates beside frozen weights, which nf4 or int8 may store.

Hu et al., 2021 (arXiv:2106.09685); Dettmers et al., 2023 (arXiv:2305.14314). The update may start from PiSSA (Meng et
al., 2024, arXiv:2404.02948) or LoftQ (Li et al., 2023, arXiv:2310.08659), and B may learn faster than A (LoRA+, Hayou
et al., 2024, arXiv:2402.12354).
"""

from __future__ import annotations

from pathlib import Path

from finetune_api.spec.method import Engine, Initialization, LowRankSpec
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import set_seed

from finetune_trainer.engines import unsloth
from finetune_trainer.methods.lora.loftq import start_from_quantization_error
from finetune_trainer.model.structure.targets import target_modules
from finetune_trainer.trained_model.peft_adapter import PeftAdapter, PissaAdapter
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.training.training_run import TrainingRun

_PISSA = "pissa_niter_16"
"""The largest singular values by 16 rounds of a randomised method: seconds, where a whole decomposition takes hours."""


def train(run: TrainingRun) -> TrainingResult:
    """Attach the adapter and train it; errors as in `fine_tune`, and `BadConfig` for unknown target modules."""
    settings = run.spec.method.lora
    assert settings is not None
    field, ratio = "spec.method.lora", settings.learning_rate_ratio or 1.0
    if settings.initialization is Initialization.PISSA:
        model = attach(run, settings, field, start=_PISSA)
        return fine_tune(run, PissaAdapter(model, ratio, run.scratch / "pissa"))
    model = attach(run, settings, field)
    if settings.initialization is Initialization.LOFTQ:
        start_from_quantization_error(model, Path(run.model.name_or_path))
    return fine_tune(run, PeftAdapter(model, ratio))


def attach(run: TrainingRun, settings: LowRankSpec, field: str, dora: bool = False, start: bool | str = True
           ) -> PeftModel:
    """The run's model with a fresh adapter, whose weights depend on the seed alone.

    Args:
        run: with the base model.
        settings: the adapter's.
        field: where they are in the job, for errors.
        dora: whether the weights' magnitudes are trained too.
        start: PEFT's name of what it starts from; by default it changes nothing yet (B = 0).
    """
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
        init_lora_weights=start,
        target_modules=target_modules(run.model, settings.target_modules, field),
        bias="none",
        task_type="CAUSAL_LM",
    )
    # autocast_adapter_dtype keeps the adapter in float32 whatever the base computes in.
    return get_peft_model(run.model, config, autocast_adapter_dtype=True)
