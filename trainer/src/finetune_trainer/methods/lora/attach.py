"""A fresh adapter of low rank in a model, for LoRA, DoRA and ReFT's policy."""

from __future__ import annotations

import torch
from finetune_api.spec.method import Engine, LowRankSpec
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from transformers import set_seed

from finetune_trainer.engines import unsloth
from finetune_trainer.methods.lora.fused_layers import fuse
from finetune_trainer.model.structure.targets import target_modules
from finetune_trainer.training.training_run import TrainingRun


def attach(run: TrainingRun, settings: LowRankSpec, field: str, dora: bool = False, start: bool | str = True
           ) -> PeftModel:
    """The run's model with a fresh adapter, whose weights depend on the seed alone.

    Args:
        run: the run, with the base model.
        settings: the adapter's settings.
        field: their field in the job, for errors.
        dora: whether the weights' magnitudes are trained too.
        start: PEFT's name of the adapter's initial values; by default B is 0, and the model is unchanged at first.

    Raises:
        BadConfig: the model has no linear layers with the names of `targetModules`.
    """
    set_seed(run.spec.training.seed)
    targets = target_modules(run.model, settings.target_modules, field)
    adapted: PeftModel
    if run.spec.engine is Engine.UNSLOTH:
        adapted = unsloth.attach(run.model, run.spec, settings, targets)
        return adapted
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=dora,
        init_lora_weights=start,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    # autocast_adapter_dtype keeps the adapter in float32, whatever type the base computes in.
    adapted = get_peft_model(run.model, config, autocast_adapter_dtype=True)
    fuse(adapted)
    if run.device.dtype is not torch.float32:
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                # Autocast casts what a layer computes with. PEFT would cast x to float32 first, and each layer would
                # then store a copy of its own.
                module.cast_input_dtype_enabled = False
    return adapted
