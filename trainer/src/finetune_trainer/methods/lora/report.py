"""How the report shows the settings of a low-rank adapter."""

from __future__ import annotations

from finetune_api.methods.lora import Initialization, LoraSpec
from finetune_api.methods.low_rank import LowRankSpec

from finetune_trainer.methods.trainer_method import ReportLines


def report_lines(settings: LoraSpec) -> ReportLines:
    """The adapter, and what it started from."""
    lines = adapter_lines(settings)
    if settings.initialization is not Initialization.DEFAULT:
        lines.insert(2, ("started from", f"{settings.initialization}"))
    return lines


def adapter_lines(adapter: LowRankSpec) -> ReportLines:
    """What LoRA, DoRA and ReFT's adapter have in common."""
    lines = [("rank, alpha, dropout", f"{adapter.rank}, {adapter.alpha:g}, {adapter.dropout:g}"),
             ("adapted layers", ", ".join(adapter.target_modules) if adapter.target_modules else
              "every linear layer but the head")]
    if adapter.learning_rate_ratio:
        lines.append(("learning rate of B", f"{adapter.learning_rate_ratio:g} times A's"))
    return lines
