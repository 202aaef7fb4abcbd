"""The methods, one linear file each."""

from __future__ import annotations

from collections.abc import Callable

from finetune_api.spec.method import MethodType

from finetune_trainer.methods import additive, dora, full, lora, partial, reft
from finetune_trainer.training.run import Trained, TrainingRun

METHODS: dict[MethodType, Callable[[TrainingRun], Trained]] = {
    MethodType.LORA: lora.train,
    MethodType.DORA: dora.train,
    MethodType.PARTIAL: partial.train,
    MethodType.ADDITIVE: additive.train,
    MethodType.FULL: full.train,
    MethodType.REFT: reft.train,
}
