"""DoRA and QDoRA: their settings and trained parameters. estimate/memory.py computes their memory."""

from __future__ import annotations

from finetune_api.architecture import Architecture
from finetune_api.methods.low_rank import LowRankSpec, low_rank_parameters
from finetune_api.methods.method import Method
from finetune_api.methods.trained_parameters import TrainedParameters


class DoraSpec(LowRankSpec):
    """Weight-decomposed low-rank adapters: LoRA on the direction of each weight, with a trained magnitude
    (Liu et al., 2024, arXiv:2402.09353)."""

    kept_norms: bool = True
    """Keep the norms of the adapted weights between optimizer steps: faster, and in bfloat16 more exact. `false` is
    PEFT's own way: it computes them anew in every pass, and in bfloat16 rounds them to steps of 0.4 to 0.8 %."""


class Dora(Method[DoraSpec]):
    """LoRA on the direction of each weight, and a trained magnitude."""

    name = "DoRA"
    block = "dora"

    def resolved(self, settings: DoraSpec | None) -> DoraSpec:
        """The settings, or their defaults."""
        return settings or DoraSpec()

    def low_rank(self, settings: DoraSpec | None) -> tuple[str, LowRankSpec] | None:
        """The adapter is the whole method."""
        return ("dora", settings) if settings else None

    def trained(self, settings: DoraSpec | None, model: Architecture) -> TrainedParameters:
        """LoRA's two factors, and a magnitude for each output."""
        settings = settings or DoraSpec()
        return low_rank_parameters(settings, model, magnitude=True, dense=not settings.kept_norms)
