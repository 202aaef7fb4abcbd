"""PiSSA's adapter, published as a plain LoRA (Meng et al., 2024, arXiv:2404.02948)."""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import PeftModel

from finetune_trainer.trained_model.peft_adapter import PeftAdapter

FROM_LARGEST_SINGULAR_VALUES = "pissa_niter_16"
"""PEFT's name of this start. It computes the largest singular values by 16 rounds of a randomised method: seconds,
where a whole decomposition takes hours."""


class PissaAdapter(PeftAdapter):
    """A PiSSA adapter, which took its first values out of the base; published as a plain LoRA of twice the rank.

    The base of the run is W - s·B₀·A₀, so W + s·(B·A - B₀·A₀) is the same model on the unchanged base W.
    """

    def __init__(self, model: PeftModel, learning_rate_ratio: float, scratch: Path) -> None:
        """
        Args:
            model: the base model with its fresh adapter.
            learning_rate_ratio: how many times faster B learns than A.
            scratch: a folder of this process, for the first values.
        """
        super().__init__(model, learning_rate_ratio)
        self._first = scratch / "first"
        # Else PEFT would take the values out of the base again wherever it loads this adapter.
        model.peft_config["default"].init_lora_weights = True
        self._write(self._first)

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the difference to the first values, as PEFT does."""
        with warnings.catch_warnings():
            # PEFT loads the first values as a second adapter, and warns of it.
            warnings.simplefilter("ignore")
            super().publish(folder, base_model, revision)

    def _write(self, folder: Path, **options: str) -> None:
        if folder != self._first:
            options["path_initial_model_for_weight_conversion"] = str(self._first)
        super()._write(folder, **options)
