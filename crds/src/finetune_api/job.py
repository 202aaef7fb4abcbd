"""`FineTuneJob`: the resource, with its spec, its status and the rules that join fields."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from finetune_api.rules import broken_rules
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.values.api_model import ApiModel

KIND = "FineTuneJob"


class Metadata(ApiModel):
    """The part of Kubernetes' ObjectMeta that the project reads; the rest is kept and passed by."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """Name of the job: at most 40 lower-case letters, digits and dashes, a letter first."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "default"
    """Namespace of the job; `finetune run` uses it as a folder of the output."""


class FineTuneJob(ApiModel):
    """Fine-tunes a language model and publishes the adapter."""

    api_version: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"
    """Version of the API."""

    kind: Literal["FineTuneJob"] = "FineTuneJob"
    """Kind of the resource."""

    metadata: Metadata
    """Name and namespace."""

    spec: FineTuneJobSpec
    """What the user wants."""

    status: FineTuneJobStatus | None = None
    """What the operator saw; ignored in a file."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        raw = self.model_dump(mode="json", exclude_unset=True)
        if broken := list(broken_rules(raw)):
            raise ValueError("; ".join(f"{violation.path}: {violation.message}" for violation in broken))
        return self
