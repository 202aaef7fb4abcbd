"""The settings of TRL's trainer for supervised fine-tuning."""

from __future__ import annotations

import torch
from finetune_api.estimate import (
    Optimizer,
    TrainedParameters,
    UnknownArchitecture,
    choose_optimizer,
    read_architecture,
    trained_by,
)
from trl import SFTConfig

from finetune_trainer.data.batches.steps import Layout
from finetune_trainer.distributed.collectives import COLLECTIVE_TIMEOUT
from finetune_trainer.trained_model import count_trained
from finetune_trainer.training.training_run import TrainingRun


def trl_settings(run: TrainingRun, layout: Layout, steps: int, checkpointing: bool, sharded: bool) -> SFTConfig:
    """The settings of TRL's trainer. Every default that would round, truncate, save or send something is overridden.

    Args:
        run: the training run.
        layout: how rows form micro-batches.
        steps: the steps of the whole run.
        checkpointing: whether activations are computed again in the backward pass.
        sharded: whether the model is sharded.
    """
    training, device = run.spec.training, run.device
    config = SFTConfig(
        output_dir=str(run.scratch / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=layout.micro_batch_size,
        gradient_accumulation_steps=layout.micro_batches(training.batch_size),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=optimizer_of(run, sharded),
        bf16=device.dtype is torch.bfloat16,
        fp16=False,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        loss_type="nll",
        # The coefficient of a mixture of experts would add a loss that nobody asked for, and that depends on no row.
        router_aux_loss_coef=0.0,
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=not device.is_gpu,
        # The loss is a mean over the answer tokens of the whole step, over all processes.
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=int(COLLECTIVE_TIMEOUT.total_seconds()),
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=None,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        # The loader itself starts at the right step.
        ignore_data_skip=True,
        remove_unused_columns=False,
        push_to_hub=False,
        dataloader_pin_memory=False,
    )
    # A process uses one GPU, even if the machine has more. Otherwise TRL refuses, and transformers splits batches.
    config._n_gpu = min(config.n_gpu, 1)
    return config


def optimizer_of(run: TrainingRun, sharded: bool) -> Optimizer:
    """The optimizer that the memory estimate counts; of an architecture that it does not know, what is trained is
    counted in the model."""
    try:
        trained = trained_by(run.spec.method, read_architecture(run.model.config.to_dict()))
    except UnknownArchitecture:
        counted = count_trained(run.model)
        # Beside weights that may be quantized, an adapter is trained.
        own = 0 if run.spec.method.definition.quantizable else counted
        trained = TrainedParameters(counted - own, own, frozenset(), 0)
    return choose_optimizer(trained, run.device.is_gpu, sharded)
