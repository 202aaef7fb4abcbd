"""How the report shows which parameters were trained."""

from __future__ import annotations

from finetune_api.methods.partial import PartialSpec

from finetune_trainer.methods.trainer_method import ReportLines


def report_lines(settings: PartialSpec) -> ReportLines:
    """The patterns or the layers that the job names."""
    if settings.parameters:
        return [("trained parameters named", ", ".join(settings.parameters))]
    layers = ", ".join(map(str, settings.layers)) if settings.layers else f"the last {settings.last_layers}"
    return [("trained layers", layers)]
