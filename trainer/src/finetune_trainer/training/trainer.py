"""TRL's SFTTrainer with the project's loader and checkpoints, for whole and for sharded models."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from finetune_trainer.distributed.sharding import (
    full_tensor,
    gather_optimizer_state,
    is_torch_adamw_state,
    load_optimizer_state,
)
from finetune_trainer.faults import loss_becomes_nan, run_out_of_memory
from finetune_trainer.model.attention_by_rows import attending_by_rows
from finetune_trainer.trained_model import load_trained, save_trained
from finetune_trainer.training.answers_only import AnswersOnly
from finetune_trainer.training.checkpointed_layers import CheckpointedLayers
from finetune_trainer.training.loader import StepLoader
from finetune_trainer.training.loop import LoopCallback
from finetune_trainer.training.resumed_progress import OPTIMIZER


@dataclass(frozen=True)
class TrainerParts:
    """The parts of a `StepTrainer` that are not TRL's.

    Attributes:
        loader: yields the micro-batches.
        learning_rate_factor: the factor on the learning rate of the parameter with this name.
        schedule: the factor on every learning rate in a step, from 0.
        note: receives notes for people.
        sharded: whether the model is sharded among the processes.
        saves_random_state: whether checkpoints hold random states.
        by_rows: whether the batches are for attention by rows.
        answers_only: keeps only the positions that predict an answer token; None keeps all.
        checkpointed_layers: how many layers are checkpointed, from the first on.
    """

    loader: StepLoader
    learning_rate_factor: Callable[[str], float]
    schedule: Callable[[int], float]
    note: Callable[[str], None]
    sharded: bool
    saves_random_state: bool
    by_rows: bool
    answers_only: AnswersOnly | None
    checkpointed_layers: int = 0


class StepTrainer(SFTTrainer):
    """TRL's trainer with the project's loader, schedule and checkpoints.

    Attributes:
        checkpointed_layers: how many layers are checkpointed, from the first on.
    """

    def __init__(self, model: Any, settings: SFTConfig, tokenizer: PreTrainedTokenizerBase, callback: LoopCallback,
                 parts: TrainerParts) -> None:
        """
        Args:
            model: the model, whose unfrozen parameters are trained.
            settings: the settings of TRL's trainer.
            tokenizer: the tokenizer of the model.
            callback: reports, checkpoints and stops between steps.
            parts: the parts that are not TRL's.
        """
        self._parts = parts
        self.checkpointed_layers = parts.checkpointed_layers
        self._callback = callback
        _unwrap(model)
        text = model.config.get_text_config()
        coefficient = getattr(text, "router_aux_loss_coef", None)
        # TRL wants a data set; the loader takes its place.
        super().__init__(model=model, args=settings, processing_class=tokenizer,
                         callbacks=[callback, CheckpointedLayers(parts.checkpointed_layers)],
                         train_dataset=Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}))
        if coefficient is not None:
            # TRL has overwritten it, and the configuration may be published.
            text.router_aux_loss_coef = coefficient
        self.remove_callback(PrinterCallback)
        # TRL would gather metrics that nobody reads from all processes, four times in every forward pass.
        self.accelerator.gather_for_metrics = lambda metric: metric
        callback.attach(self)

    def get_train_dataloader(self) -> Any:
        """The project's loader; accelerate does not wrap it."""
        return self._parts.loader

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        """TRL's loss; on a CPU only over the positions that predict an answer token."""
        if self._parts.answers_only is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._parts.answers_only.narrowed(inputs) as narrowed:
            return super().compute_loss(model, narrowed, return_outputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch forward and backward."""
        run_out_of_memory(int((inputs["position_ids"] == 0).sum()))
        with attending_by_rows(self.model) if self._parts.by_rows else contextlib.nullcontext():
            loss = super().training_step(model, inputs, num_items_in_batch)
        return loss * math.nan if loss_becomes_nan(self.state.global_step + 1) else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, with one parameter group per learning rate."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        factor = self._parts.learning_rate_factor
        rates = {id(parameter): factor(name) for name, parameter in self.model.named_parameters()}
        groups = optimizer.param_groups
        # The rate of the first group is the one in the progress.
        optimizer.param_groups = [
            {**group, "params": members, "lr": group["lr"] * rate}
            for rate in sorted({*rates.values()}) for group in groups
            if (members := [p for p in group["params"] if rates[id(p)] == rate])
        ]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
                         ) -> torch.optim.lr_scheduler.LRScheduler:
        """The project's learning rate schedule."""
        scheduler = self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, self._parts.schedule)
        self._created_lr_scheduler = True
        return scheduler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes nothing: the project writes its own model card."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if output_dir is None:
            raise ValueError("a checkpoint needs a folder")
        # A collective if the model is sharded: every process calls it.
        save_trained(self.model, Path(output_dir), self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))

    def _defer_fsdp_gradient_reduction(self) -> Any:
        # A sharded model reduces its gradients after every pass. Deferring that would keep whole gradients in memory.
        return contextlib.nullcontext()

    def _clip_grad_norm(self, model: Any) -> Any:
        return full_tensor(super()._clip_grad_norm(model))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._parts.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gather_optimizer_state(self.optimizer, self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        path = Path(checkpoint) / OPTIMIZER
        if not self._parts.sharded and self._is_of_this_kind(path):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if not self._parts.sharded or not load_optimizer_state(self.optimizer, path):
            # One GPU may train with an 8-bit optimizer where several train with torch's, and a job may change between
            # them. Earlier versions trained adapters with an 8-bit optimizer too.
            self._parts.note("the checkpoint has the state of another kind of optimizer: the optimizer starts anew")
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        # A scheduler sets the rates only after a step, and an optimizer that starts anew has those of the first step.
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _is_of_this_kind(self, state: Path) -> bool:
        return is_torch_adamw_state(state) == isinstance(self.optimizer.optimizer, torch.optim.AdamW)

    def _save_rng_state(self, output_dir: str) -> None:
        # Several processes seed every step anew (`LoopCallback.on_step_begin`).
        if self._parts.saves_random_state:
            super()._save_rng_state(output_dir)

    def write_checkpoint(self) -> Path:
        """Write a checkpoint of the state after the last whole step; its folder."""
        self._save_checkpoint(self.model, None)
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"


def _unwrap(model: Any) -> None:
    """Remove the wrapper for bfloat16 that accelerate put around `forward` in an earlier try.

    accelerate marks the model, and would not wrap it a second time. A PEFT model is wrapped in another object, so its
    base is untouched.
    """
    if not isinstance(model, PeftModel) and model.__dict__.pop("_is_accelerate_prepared", False):
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
