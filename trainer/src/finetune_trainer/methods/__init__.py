"""The methods: a package each, and the table of them.

A method's package has `train.py`, its own published form if it needs one, and `report.py` with its lines of the report.
What the API says of a method (settings, defaults, rules, memory) stands in `finetune_api.methods`.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.spec.method import MethodType

from finetune_trainer.methods import additive, dora, full, lora, partial, reft
from finetune_trainer.methods.trainer_method import TrainerMethod

METHODS: Mapping[MethodType, TrainerMethod] = {
    MethodType.LORA: lora.METHOD,
    MethodType.DORA: dora.METHOD,
    MethodType.REFT: reft.METHOD,
    MethodType.PARTIAL: partial.METHOD,
    MethodType.ADDITIVE: additive.METHOD,
    MethodType.FULL: full.METHOD,
}
"""What the trainer knows of each method."""
