"""TRL's SFTTrainer with the project's loader and checkpoints, also of a model that is divided among processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import SCHEDULER_NAME
from trl import SFTTrainer

from finetune_trainer.distributed.sharding import (
    full_tensor,
    gather_optimizer_state,
    is_torch_adamw_state,
    load_optimizer_state,
)
from finetune_trainer.faults import loss_becomes_nan, run_out_of_memory
from finetune_trainer.trained_model import load_trained, save_trained
from finetune_trainer.training.answers_only import AnswersOnly
from finetune_trainer.training.loader import StepLoader
from finetune_trainer.training.resume import OPTIMIZER


class StepTrainer(SFTTrainer):
    """TRL's trainer, with the project's loader and the faults that tests ask for.

    Attributes:
        loader: what it trains on.
        rate: what the learning rate is multiplied by for a parameter's name.
        schedule: what every learning rate is multiplied by in a step, from 0.
        note: where to tell people something.
        sharded: whether the model is divided among the processes (`sharding.py`).
        keeps_random_state: whether checkpoints hold random states.
        answers_only: narrows what reaches the head.
    """

    loader: StepLoader
    rate: Callable[[str], float]
    schedule: Callable[[int], float]
    note: Callable[[str], None]
    sharded = False
    keeps_random_state = True
    answers_only: AnswersOnly | None = None

    def get_train_dataloader(self) -> Any:
        """The project's loader, as it is."""
        return self.loader

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        """TRL's loss; on a CPU of the answers' positions alone."""
        if self.answers_only is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.answers_only.narrowed(inputs) as narrowed:
            return super().compute_loss(model, narrowed, return_outputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
                      ) -> torch.Tensor:
        """One micro-batch forward and backward."""
        run_out_of_memory(int((inputs["position_ids"] == 0).sum()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        return loss * math.nan if loss_becomes_nan(self.state.global_step + 1) else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, with a group for each learning rate."""
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

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
                         ) -> torch.optim.lr_scheduler.LRScheduler:
        """The project's schedule."""
        scheduler = self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.schedule)
        self._created_lr_scheduler = True
        return scheduler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: checkpoints are for resuming, and the card is ours."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        # Called in every process, and where the model is divided all have to gather it.
        save_trained(self.model, Path(output_dir), self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))

    def _defer_fsdp_gradient_reduction(self) -> Any:
        # Of a divided model gradients are summed up after every pass: kept until the last one they would be whole.
        return contextlib.nullcontext()

    def _clip_grad_norm(self, model: Any) -> Any:
        return full_tensor(super()._clip_grad_norm(model))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
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
        if not self.sharded and is_torch_adamw_state(path) == isinstance(self.optimizer.optimizer, torch.optim.AdamW):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if not self.sharded or not load_optimizer_state(self.optimizer, path):
            # One GPU trains with an 8-bit optimizer, several with torch's: the same job may have gone to others.
            self.note("the checkpoint's optimizer is of another kind: its state begins anew")
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        # Several processes begin every step with random states of their own (`LoopCallback.on_step_begin`).
        if self.keeps_random_state:
            super()._save_rng_state(output_dir)

    def write_checkpoint(self) -> Path:
        """The state after the last whole step, in a folder of its own."""
        self._save_checkpoint(self.model, None)
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
