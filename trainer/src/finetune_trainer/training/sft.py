"""Supervised fine-tuning on TRL's SFTTrainer: the loop, its resume, and its retreat when memory runs out."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from finetune_api.spec.training import Toggle
from torch.nn.parallel import DistributedDataParallel
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from finetune_trainer.data.collate import collate
from finetune_trainer.data.steps import Layout, lay_out, step_rows, total_steps
from finetune_trainer.distributed import COLLECTIVE
from finetune_trainer.errors import OutOfMemory, StopRequested
from finetune_trainer.faults import loss_becomes_nan, run_out_of_memory
from finetune_trainer.training.answers_only import AnswersOnly
from finetune_trainer.training.loop import LoopCallback
from finetune_trainer.training.portions import first_portion
from finetune_trainer.training.resume import take_up
from finetune_trainer.training.run import Trained, TrainingRun
from finetune_trainer.tuned import Tuned, count_trained, load_trained, save_trained

LEAVING_SECONDS = 300.0
"""How long the processes wait for each other at the end of a loop."""


def fine_tune(run: TrainingRun, tuned: Tuned) -> Trained:
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
    # On disk: a copy of a whole model in memory would cost as much again.
    first = run.scratch / "first"
    save_trained(tuned.model, first)
    folder = run.scratch / "resume"
    found = run.checkpoints.newest(run.identity, folder)
    start = take_up(run, found, folder, steps) if found else 0
    micro, checkpointing = first_portion(run)
    reason: str | None = None
    step = start
    identity = run.identity
    run.world.agree({"job": identity.spec_hash, "data": identity.data_hash, "base weights": identity.base_hash,
                     "newest checkpoint": start})
    if start >= steps:
        load_trained(tuned.model, folder)
    while step < steps and reason is None:
        try:
            step, reason = _train_with(run, tuned, micro, checkpointing, steps, folder if start else None, start, first)
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
    return Trained(
        tuned=tuned, step=step, total_steps=steps, resumed_from_step=run.state.resumed_from_step,
        micro_batch_size=micro, trainable_parameters=count_trained(tuned.model), stopped_early=reason,
    )


def _train_with(run: TrainingRun, tuned: Tuned, micro: int, checkpointing: bool, steps: int, resume: Path | None,
                start: int, first: Path) -> tuple[int, str | None]:
    """One training loop with one micro-batch size: the steps done, and why it ended early."""
    model = tuned.model
    layout = Layout(micro, run.spec.training.packing, model.config.get_text_config().hidden_size, run.world.size)
    loader = StepLoader(run, layout, steps, start)
    callback = LoopCallback(run, loader, steps, start)
    trainer = _Trainer(
        model=model,
        args=_arguments(run, layout, steps, checkpointing),
        train_dataset=Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),
        processing_class=run.tokenizer,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.loader = loader
    trainer.rate = tuned.rate
    trainer.keeps_random_state = run.world.size == 1
    # TRL would gather metrics that nobody reads from all processes, four times in every forward pass.
    trainer.accelerator.gather_for_metrics = lambda metric: metric
    if not run.device.is_gpu:
        trainer.answers_only = AnswersOnly(tuned.causal)
    callback.trainer = trainer
    # TRL has just rounded a quantised model's adapter to bf16 (and after memory trouble it holds the failed try's).
    load_trained(model, first)
    _assert_precision(model)
    if run.world.size > 1:
        # Every process has loaded the frozen weights itself, and they agreed on their digest: not to be sent around.
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            model, frozen + [name for name, _ in model.named_buffers()])
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    run.world.meet("trained", lambda: None, LEAVING_SECONDS)
    run.uploader.raise_failure()
    step = int(trainer.state.global_step)
    if callback.stopping:
        run.uploader.drain()
        raise StopRequested(f"stopped at step {step} of {steps}; the checkpoint of that step is in the output")
    return step, callback.stopped_early


def _assert_precision(model: torch.nn.Module) -> None:
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype is not torch.float32]
    assert not wrong, f"trained weights must be float32: {wrong[:3]}"


def _arguments(run: TrainingRun, layout: Layout, steps: int, checkpointing: bool) -> SFTConfig:
    """TRL's settings, each one explicit where its default would round, cut, checkpoint or phone home."""
    training, device = run.spec.training, run.device
    return SFTConfig(
        output_dir=str(run.scratch / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=layout.micro_batch_size,
        gradient_accumulation_steps=layout.micro_batches(training.batch_size),
        learning_rate=training.learning_rate,
        lr_scheduler_type=str(training.scheduler),
        warmup_steps=math.ceil(training.warmup * steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="paged_adamw_8bit" if device.is_gpu else "adamw_torch",
        bf16=device.dtype is torch.bfloat16,
        fp16=False,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        loss_type="nll",
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=not device.is_gpu,
        # The loss is divided by the answer tokens of the whole step, wherever its rows are.
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=int(COLLECTIVE.total_seconds()),
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


class StepLoader:
    """This process's micro-batches of all steps from `start` on; each step's are the same whatever happened before."""

    def __init__(self, run: TrainingRun, layout: Layout, steps: int, start: int) -> None:
        training = run.spec.training
        self._rows = run.data.train
        self._lengths = [len(row) for row in self._rows]
        self._layout = layout
        self._pad_id = int(run.tokenizer.pad_token_id)
        self._count = steps
        self._start = start
        self._plan = list(step_rows(len(self._rows), training.batch_size, training.seed, steps))
        self._batch_size = training.batch_size
        self._rank = run.world.rank

    def __len__(self) -> int:
        """Micro-batches of this process in the whole run; the trainer derives its steps from it."""
        return self._count * self._layout.micro_batches(self._batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for indices in self._plan[self._start:]:
            for lines in lay_out(indices, self._lengths, self._layout)[self._rank::self._layout.processes]:
                yield collate(lines, self._rows, self._pad_id)

    def tokens(self, step: int) -> int:
        """Tokens of the rows of a step, from 1, over all processes, padding left out."""
        return sum(self._lengths[index] for index in self._plan[step - 1])

    def epoch(self, step: int) -> float:
        """Passes over the data after a step."""
        return step * self._batch_size / len(self._rows)


class _Trainer(SFTTrainer):
    """TRL's trainer, with the project's loader and the faults that tests ask for."""

    loader: StepLoader
    rate: Callable[[str], float]
    keeps_random_state = True
    answers_only: AnswersOnly | None = None

    def get_train_dataloader(self) -> Any:
        return self.loader

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        if self.answers_only is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.answers_only.narrowed(inputs) as narrowed:
            return super().compute_loss(model, narrowed, return_outputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
                      ) -> torch.Tensor:
        run_out_of_memory(int((inputs["position_ids"] == 0).sum()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        return loss * math.nan if loss_becomes_nan(self.state.global_step + 1) else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        rates = {id(parameter): self.rate(name) for name, parameter in self.model.named_parameters()}
        groups = optimizer.param_groups
        # A group for each rate; the first one's is the rate that is shown.
        optimizer.param_groups = [
            {**group, "params": members, "lr": group["lr"] * rate}
            for rate in sorted({*rates.values()}) for group in groups
            if (members := [p for p in group["params"] if rates[id(p)] == rate])
        ]
        return optimizer

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: checkpoints are for resuming, and the card is ours."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        save_trained(self.model, Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        # Several processes begin every step with random states of their own (`LoopCallback.on_step_begin`).
        if self.keeps_random_state:
            super()._save_rng_state(output_dir)

    def write_checkpoint(self) -> Path:
        """The state after the last whole step, in a folder of its own."""
        self._save_checkpoint(self.model, None)
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"


