"""How the report shows the settings of an additive method."""

from __future__ import annotations

from finetune_api.methods.additive import AdditiveSpec

from finetune_trainer.methods.trainer_method import ReportLines


def report_lines(settings: AdditiveSpec) -> ReportLines:
    """The size of the added parameters, or the scaled layers."""
    if settings.virtual_tokens:
        return [("virtual tokens", f"{settings.virtual_tokens:,}")]
    if settings.bottleneck_size:
        return [("bottleneck width", f"{settings.bottleneck_size:,}")]
    return [("scaled layers", ", ".join(settings.target_modules) if settings.target_modules else
             "PEFT's default for the model")]
