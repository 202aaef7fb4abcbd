"""All settings of the operator."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from finetune_api.spec.compute import AUTO, ComputeSpec, Name, Toleration, TolerationOperator
from finetune_api.spec.method import Engine
from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import Duration
from pydantic import Field, field_validator

from finetune_operator.settings.accelerators import DEFAULT_CATALOGUE, Accelerator
from finetune_operator.settings.allowed import Allowed
from finetune_operator.settings.network import Port, TrainerNetwork
from finetune_operator.settings.pod_template import PodTemplate
from finetune_operator.settings.preflight import PreflightSettings


class Settings(ApiModel):
    """The operator's settings."""

    trainer_image: Annotated[str, Field(min_length=1, max_length=1024)] = "ghcr.io/finetune-dev/finetune-trainer:0.1.0"
    """Image of the trainer. A digest is safer than a tag."""

    unsloth_image: Annotated[str, Field(min_length=1, max_length=1024)] = (
        "ghcr.io/finetune-dev/finetune-trainer-unsloth:0.1.0")
    """Image of the trainer for jobs with `engine: unsloth`, built from trainer/Dockerfile.unsloth."""

    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = "IfNotPresent"
    """When a node pulls the trainer's image."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets, in the job's namespace, with the credentials for the registry of the trainer's image."""

    trainer_port: Port = 8080
    """Port at which trainers serve `/progress` and `/metrics`."""

    accelerators: dict[Name, Accelerator] = DEFAULT_CATALOGUE
    """The accelerator catalogue: what a job's `compute.accelerator` may name."""

    currency: Annotated[str, Field(max_length=8)] = "USD"
    """Currency of the catalogue's prices."""

    spot_tolerations: tuple[Toleration, ...] = (
        Toleration(key="cloud.google.com/gke-spot", operator=TolerationOperator.EXISTS),
        Toleration(key="kubernetes.azure.com/scalesetpriority", operator=TolerationOperator.EXISTS),
    )
    """Taints of preemptible nodes. Jobs with `compute.spot` tolerate them."""

    allowed: Allowed = Allowed()
    """Values that a job may name beside the catalogue."""

    start_timeout: Duration = timedelta(minutes=10)
    """How long a scheduled pod may take to start. After that its job fails with the kubelet's message."""

    preflight: PreflightSettings = PreflightSettings()
    """The check of a job before its start."""

    retry_delay: Duration = timedelta(seconds=10)
    """Wait before the first counted retry. It doubles with each further retry, up to ten minutes."""

    progress_interval: Duration = timedelta(seconds=5)
    """Interval at which the operator reads the progress of trainers. It writes a job's status no more often."""

    termination_grace: Duration = timedelta(minutes=2)
    """Least time for a trainer to write a checkpoint when it is asked to stop. A checkpoint that is expected to be
    large gets one second for every 50 MB."""

    model_cache_claim: Name | None = None
    """PersistentVolumeClaim, in the job's namespace, that caches models between jobs. null caches none."""

    pod_template: PodTemplate = Field(default_factory=dict)
    """Part of a pod template, merged into the pods of all trainers: a proxy's environment, a sidecar, more volumes.
    Lists are merged by name, volumeMounts by mountPath. A volume or variable with another source replaces the one of
    the same name."""

    trainer_network: TrainerNetwork | None = None
    """The NetworkPolicy of every job's pods. null creates none. The chart sets it, because it knows the operator's
    labels."""

    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs that the operator works on at the same time."""

    @field_validator("accelerators")
    @classmethod
    def _no_entry_named_auto(cls, catalogue: dict[str, Accelerator]) -> dict[str, Accelerator]:
        if AUTO in catalogue:
            raise ValueError(f"{AUTO} is no name for an accelerator: jobs write compute.accelerator: {AUTO} to let the "
                             "check choose one of the catalogue. Give the entry another name")
        return catalogue

    def accelerator(self, compute: ComputeSpec) -> Accelerator:
        """The catalogue's entry for a job; one with defaults if none has its name: it is to be chosen, or removed."""
        return self.accelerators.get(compute.accelerator, Accelerator())

    def image_for(self, engine: Engine) -> str:
        """The trainer's image for an engine."""
        return self.unsloth_image if engine is Engine.UNSLOTH else self.trainer_image
