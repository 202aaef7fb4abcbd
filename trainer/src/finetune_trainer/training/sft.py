"""Supervised fine-tuning on TRL's SFTTrainer: the loop, its resume, and its retreat when memory runs out."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from datasets import Dataset
from finetune_api.spec.training import Toggle
from peft import PeftModel
from torch.nn.parallel import DistributedDataParallel
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig

from finetune_trainer.data.batches.steps import Layout, total_steps
from finetune_trainer.distributed.collectives import COLLECTIVE_TIMEOUT
from finetune_trainer.distributed.sharding import is_sharded
from finetune_trainer.errors import OutOfMemory, StopRequested
from finetune_trainer.trained_model import TrainedModel, count_trained, load_trained, save_trained
from finetune_trainer.training.answers_only import AnswersOnly
from finetune_trainer.training.loader import StepLoader
from finetune_trainer.training.loop import LoopCallback
from finetune_trainer.training.micro_batch import first_micro_batch
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.resume import newest, take_up
from finetune_trainer.training.schedule import share_of_peak
from finetune_trainer.training.trainer import StepTrainer
from finetune_trainer.training.training_run import TrainingRun

LEAVING_SECONDS = 300.0
"""How long the processes wait for each other at the end of a loop."""


def fine_tune(run: TrainingRun, trained_model: TrainedModel) -> TrainingResult:
    """Train what is to be trained in a model on the run's rows, from the newest checkpoint on where there is one.

    Raises:
        Diverged: the loss became NaN or ran away.
        OutOfMemory: not even one row fits; or, where several processes train, not what was tried first.
        OutputNotWritable: a checkpoint could not be written.
        PeerFailure: the processes see different things, or one of them is gone.
        StopRequested: somebody asked; a checkpoint of the last whole step is in the output.
    """
    training = run.spec.training
    steps = total_steps(len(run.data.train), training.batch_size, training.epochs, training.max_steps)
    # On disk: a copy of a whole model in memory would cost as much again. A divided one isn't tried a second time.
    first = None if is_sharded(trained_model.model) else run.scratch / "first"
    if first:
        save_trained(trained_model.model, first)
    folder = run.scratch / "resume"
    found = newest(run, folder, divided=first is None)
    start = take_up(run, found, folder, steps) if found else 0
    micro, checkpointing = first_micro_batch(run)
    reason: str | None = None
    step = start
    identity = run.identity
    run.world.check_equal({"job": identity.spec_hash, "data": identity.data_hash, "base weights": identity.base_hash,
                     "newest checkpoint": start})
    if start >= steps:
        load_trained(trained_model.model, folder)
    while step < steps and reason is None:
        try:
            step, reason = _train_with(run, trained_model, micro, checkpointing, steps, folder if start else None,
                                       start, first)
        except torch.OutOfMemoryError as error:
            if run.world.size > 1:
                # The others wait in a collective, which can't be begun again.
                raise OutOfMemory(f"the accelerator's memory doesn't suffice for {micro} rows per forward pass: write "
                                  "a smaller spec.training.microBatchSize or maxLength, or quantization: nf4"
                                  ) from error
            recompute = run.device.is_gpu and training.gradient_checkpointing is Toggle.AUTO and not checkpointing
            if micro == 1 and not recompute:
                raise OutOfMemory("the accelerator's memory doesn't suffice for a single row: write a smaller "
                                  "spec.training.maxLength, quantization: nf4, or gradientCheckpointing: enabled"
                                  ) from error
            if recompute:
                checkpointing = True
                run.state.note("out of accelerator memory: going on with gradient checkpointing")
            else:
                micro = max(1, micro // 2)
                run.state.note(f"out of accelerator memory: going on with {micro} rows per forward pass (batchSize "
                               f"stays {training.batch_size})")
            # The tensors of the failed step hang on the exception's frames until these are gone.
            error.__traceback__ = None
            run.uploader.drain()
            found = run.checkpoints.newest(run.identity, folder)
            start = found.step if found else 0
        gc.collect()
        if run.device.is_gpu:
            torch.cuda.empty_cache()
    return TrainingResult(
        trained_model=trained_model, step=step, total_steps=steps, resumed_from_step=run.state.resumed_from_step,
        micro_batch_size=micro, trainable_parameters=count_trained(trained_model.model), stopped_early=reason,
    )


def _train_with(run: TrainingRun, trained_model: TrainedModel, micro: int, checkpointing: bool, steps: int,
                resume: Path | None, start: int, first: Path | None) -> tuple[int, str | None]:
    """One training loop with one micro-batch size: the steps done, and why it ended early."""
    model = trained_model.model
    if not isinstance(model, PeftModel) and model.__dict__.pop("_is_accelerate_prepared", False):
        # An earlier try has wrapped the model itself for bfloat16, and accelerate would not do it again.
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
    text = model.config.get_text_config()
    coefficient = getattr(text, "router_aux_loss_coef", None)
    layout = Layout(micro, run.spec.training.packing, text.hidden_size, run.world.size)
    loader = StepLoader(run, layout, steps, start)
    callback = LoopCallback(run, loader, steps, start)
    trainer = StepTrainer(
        model=model,
        args=_arguments(run, layout, steps, checkpointing, first is None),
        train_dataset=Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),
        processing_class=run.tokenizer,
        callbacks=[callback],
    )
    if coefficient is not None:
        # TRL has put its own there, and the configuration may be published.
        text.router_aux_loss_coef = coefficient
    trainer.remove_callback(PrinterCallback)
    trainer.loader = loader
    trainer.rate = trained_model.learning_rate_factor
    trainer.schedule = lambda step: share_of_peak(step, steps, run.spec.training)
    trainer.note = run.state.note
    trainer.sharded = first is None
    trainer.keeps_random_state = run.world.size == 1
    # TRL would gather metrics that nobody reads from all processes, four times in every forward pass.
    trainer.accelerator.gather_for_metrics = lambda metric: metric
    if not run.device.is_gpu:
        trainer.answers_only = AnswersOnly(trained_model.causal)
    callback.trainer = trainer
    if first:
        # TRL has just rounded a quantised model's adapter to bf16 (and after memory trouble it holds the failed try's).
        load_trained(model, first)
    _assert_precision(model)
    if run.world.size > 1 and first:
        # Every process has loaded the frozen weights itself, and they agreed on their digest: not to be sent around.
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            model, frozen + [name for name, _ in model.named_buffers()])
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    run.world.barrier("trained", lambda: None, LEAVING_SECONDS)
    run.uploader.raise_failure()
    step = int(trainer.state.global_step)
    if callback.stopping:
        run.uploader.drain()
        raise StopRequested(f"stopped at step {step} of {steps}; the checkpoint of that step is in the output")
    return step, callback.stopped_early


def _assert_precision(model: torch.nn.Module) -> None:
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype is not torch.float32]
    assert not wrong, f"trained weights must be float32: {wrong[:3]}"


def _arguments(run: TrainingRun, layout: Layout, steps: int, checkpointing: bool, sharded: bool) -> SFTConfig:
    """TRL's settings, each one explicit where its default would round, cut, checkpoint or phone home."""
    training, device = run.spec.training, run.device
    # bitsandbytes' kernels take no divided tensors (0.50.2); torch's fused AdamW does, and copies nothing.
    optimizer = "adamw_torch" if not device.is_gpu else "adamw_torch_fused" if sharded else "paged_adamw_8bit"
    config = SFTConfig(
        output_dir=str(run.scratch / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=layout.micro_batch_size,
        gradient_accumulation_steps=layout.micro_batches(training.batch_size),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=optimizer,
        bf16=device.dtype is torch.bfloat16,
        fp16=False,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        loss_type="nll",
        # A mixture of experts: its own coefficient would add a loss that nobody asked for, whose size is not a row's.
        router_aux_loss_coef=0.0,
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=not device.is_gpu,
        # The loss is divided by the answer tokens of the whole step, wherever its rows are.
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
        # The loader starts at the right step by itself.
        ignore_data_skip=True,
        remove_unused_columns=False,
        push_to_hub=False,
        dataloader_pin_memory=False,
    )
    # One process uses one GPU, however many the machine has; else TRL would refuse, and transformers split batches.
    config._n_gpu = min(config.n_gpu, 1)
    return config
