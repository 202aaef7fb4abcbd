"""`FineTuneExperiment`: the resource, with its spec, its status and the rules that join fields."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from finetune_api.experiment.rules import RULES
from finetune_api.experiment.spec import FineTuneExperimentSpec
from finetune_api.experiment.status import FineTuneExperimentStatus
from finetune_api.job import Metadata
from finetune_api.rules import broken_rules
from finetune_api.values.api_model import ApiModel

EXPERIMENT_KIND = "FineTuneExperiment"


class FineTuneExperiment(ApiModel):
    """Runs variants of a FineTuneJob within one budget, and ranks their results."""

    api_version: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"
    """Version of the API."""

    kind: Literal["FineTuneExperiment"] = "FineTuneExperiment"
    """Kind of the resource."""

    metadata: Metadata
    """Name and namespace."""

    spec: FineTuneExperimentSpec
    """What the user wants."""

    status: FineTuneExperimentStatus | None = None
    """What was observed; ignored in a file."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        raw = self.model_dump(mode="json", exclude_unset=True)
        if broken := list(broken_rules(raw, RULES)):
            raise ValueError("; ".join(f"{violation.path}: {violation.message}" for violation in broken))
        return self
