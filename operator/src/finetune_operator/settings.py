"""What an administrator sets: one YAML file, strict, with defaults that work."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from finetune_api.base import ApiModel
from finetune_api.estimate.catalogue import CPU_PRICE, KNOWN_ACCELERATORS
from finetune_api.quantities import Duration, Money, Quantity, ResourceQuantity
from finetune_api.spec.compute import LabelKey, LabelValue, Name, Toleration, TolerationOperator
from pydantic import Field, ValidationError

GIB = 1024**3
GPU = "nvidia.com/gpu"


class BadSettings(ValueError):
    """The settings file can't be used; the message names every field and what to write."""


class Accelerator(ApiModel):
    """One kind of accelerator: how its nodes are found, what it has and what it costs."""

    resource: Annotated[str, Field(max_length=253)] | None = GPU
    """Extended resource that a pod asks for; null for plain CPU nodes."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels of its nodes."""

    tolerations: tuple[Toleration, ...] = (Toleration(key=GPU, operator=TolerationOperator.EXISTS),)
    """Taints of its nodes that a trainer tolerates."""

    memory: ResourceQuantity | None = None
    """Memory of one accelerator."""

    hourly_price: Money = Decimal(0)
    """Price of one of them for one hour."""

    cpu: ResourceQuantity = Quantity("4")
    """CPU request of a trainer, for each accelerator, where the job names none."""

    host_memory: ResourceQuantity = Quantity("24Gi")
    """Memory request and limit of a trainer, for each accelerator, where the job names none."""


DEFAULT_CATALOGUE = {
    **{name: Accelerator(node_selector={"nvidia.com/gpu.product": known.product}, memory=Quantity(
        f"{known.memory_gib}Gi"), hourly_price=known.hourly_price) for name, known in KNOWN_ACCELERATORS.items()},
    "cpu": Accelerator(resource=None, tolerations=(), hourly_price=CPU_PRICE, cpu=Quantity("2"),
                       host_memory=Quantity("8Gi")),
}
"""An administrator writes their own prices and node labels."""


class AllowedScheduling(ApiModel):
    """What a user may write into compute. Nothing by default: who may create a job must not gain a stronger account or
    another's nodes.
    """

    service_account_names: tuple[Name, ...] = ()
    """ServiceAccounts that trainers may run as."""

    priority_class_names: tuple[Name, ...] = ()
    """PriorityClasses that trainers may have."""

    node_labels: tuple[LabelKey, ...] = ()
    """Node labels that a job may select by."""

    toleration_keys: tuple[LabelKey, ...] = ()
    """Taint keys that a job may tolerate."""


class PreflightSettings(ApiModel):
    """What the check before the start gets: a CPU, and no accelerator."""

    cpu: ResourceQuantity = Quantity("500m")
    """CPU request of its pod."""

    memory: ResourceQuantity = Quantity("4Gi")
    """Memory request and limit of its pod: the libraries take 1 GiB, the data set's rows the rest."""

    timeout: Duration = timedelta(minutes=30)
    """How long it may run."""


class Settings(ApiModel):
    """The operator's settings."""

    trainer_image: Annotated[str, Field(min_length=1, max_length=1024)] = "ghcr.io/finetune-dev/trainer:0.1.0"
    """Image of the trainer, best by digest."""

    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = "IfNotPresent"
    """When a node pulls it."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets, in the job's namespace, that open its registry."""

    trainer_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port of `/progress` and `/metrics` in a trainer."""

    accelerators: dict[Name, Accelerator] = DEFAULT_CATALOGUE
    """The accelerator catalogue."""

    currency: Annotated[str, Field(max_length=8)] = "USD"
    """Currency of the catalogue's prices."""

    spot_tolerations: tuple[Toleration, ...] = (
        Toleration(key="cloud.google.com/gke-spot", operator=TolerationOperator.EXISTS),
        Toleration(key="kubernetes.azure.com/scalesetpriority", operator=TolerationOperator.EXISTS),
    )
    """Taints of preemptible nodes, tolerated by jobs with `compute.spot`."""

    allowed: AllowedScheduling = AllowedScheduling()
    """What a job may ask of the scheduler beside the catalogue."""

    start_timeout: Duration = timedelta(minutes=10)
    """How long a scheduled pod may take to start before its job fails with the kubelet's words."""

    preflight: PreflightSettings = PreflightSettings()
    """The check before the start of jobs."""

    retry_delay: Duration = timedelta(seconds=10)
    """Wait before the first counted retry; doubled with each one more, ten minutes at most."""

    progress_interval: Duration = timedelta(seconds=5)
    """How often a trainer's progress is read, and at most written to a job's status."""

    termination_grace: Duration = timedelta(minutes=2)
    """Time that a trainer gets to checkpoint when it is asked to stop."""

    model_cache_claim: Name | None = None
    """PersistentVolumeClaim, in the job's namespace, that keeps models between jobs; none keeps them in the pod."""

    pod_template: dict[str, Any] = Field(default_factory=dict)
    """Merged into every trainer's pod template (a proxy's environment, a sidecar, more volumes); lists are merged by
    name."""

    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs that are worked on at the same time."""


def load_settings(path: Path | None) -> Settings:
    """Read the settings file; without one, the defaults.

    Raises:
        BadSettings: what is wrong with it, by field.
        OSError: it can't be read.
    """
    if path is None:
        return Settings()
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        return Settings.model_validate(document or {}, strict=False)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: not valid YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise BadSettings("\n".join([f"{path}: settings that can't be used:", *lines])) from error
