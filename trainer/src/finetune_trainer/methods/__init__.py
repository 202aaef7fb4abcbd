"""The methods: one package each, and the table of their `train` functions."""

from __future__ import annotations

from collections.abc import Callable

from finetune_api.spec.method import MethodType

from finetune_trainer.methods.additive.train import train as train_additive
from finetune_trainer.methods.dora.train import train as train_dora
from finetune_trainer.methods.full.train import train as train_full
from finetune_trainer.methods.lora.train import train as train_lora
from finetune_trainer.methods.partial.train import train as train_partial
from finetune_trainer.methods.reft.train import train as train_reft
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun

METHODS: dict[MethodType, Callable[[TrainingRun], TrainingResult]] = {
    MethodType.LORA: train_lora,
    MethodType.DORA: train_dora,
    MethodType.PARTIAL: train_partial,
    MethodType.ADDITIVE: train_additive,
    MethodType.FULL: train_full,
    MethodType.REFT: train_reft,
}
