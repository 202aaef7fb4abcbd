"""The methods, one linear file each."""

from __future__ import annotations

from collections.abc import Callable

from finetune_api.spec.method import MethodType

from finetune_trainer.methods import dora, lora, reft
from finetune_trainer.training.run import Trained, TrainingRun

METHODS: dict[MethodType, Callable[[TrainingRun], Trained]] = {
    MethodType.LORA: lora.train,
    MethodType.DORA: dora.train,
    MethodType.REFT: reft.train,
}
