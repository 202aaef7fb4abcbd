"""Reading published results back: what the Python of a model card imports. These names stay."""

from __future__ import annotations

from finetune_trainer.methods.additive.bottleneck import load_bottleneck
from finetune_trainer.methods.partial.published import load_partial

__all__ = ["load_bottleneck", "load_partial"]
