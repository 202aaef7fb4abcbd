"""`FineTuneJob`: the resource that a user writes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from finetune_api.base import ApiModel
from finetune_api.rules import broken_rules
from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.dataset import DatasetSpec
from finetune_api.spec.evaluation import EvaluationSpec
from finetune_api.spec.method import Engine, MethodSpec
from finetune_api.spec.model import ModelSpec
from finetune_api.spec.output import OutputSpec
from finetune_api.spec.policy import BudgetSpec, RunPolicy
from finetune_api.spec.training import TrainingSpec
from finetune_api.status import FineTuneJobStatus

KIND = "FineTuneJob"


class FineTuneJobSpec(ApiModel):
    """What to train, on what, how, and where the result goes."""

    model: ModelSpec
    """The model to fine-tune."""

    dataset: DatasetSpec
    """The rows to learn from and to evaluate on."""

    output: OutputSpec
    """Where the result goes."""

    method: MethodSpec = MethodSpec()
    """How the model learns."""

    engine: Engine = Engine.NATIVE
    """`native`, or `unsloth` for Unsloth's kernels (one NVIDIA GPU, LoRA only)."""

    training: TrainingSpec = TrainingSpec()
    """How long, how fast and in what portions."""

    evaluation: EvaluationSpec = EvaluationSpec()
    """How the model is judged."""

    compute: ComputeSpec = ComputeSpec()
    """What it runs on."""

    budget: BudgetSpec = BudgetSpec()
    """Limits of money and time."""

    run_policy: RunPolicy = RunPolicy()
    """How the job is started, retried and cleaned up."""


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
