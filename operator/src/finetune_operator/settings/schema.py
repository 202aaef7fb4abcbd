"""What an administrator sets: one YAML file, strict, with defaults that work."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from finetune_api.base import ApiModel
from finetune_api.estimate.catalogue import CPU_PRICE, KNOWN_ACCELERATORS
from finetune_api.quantities import Duration, Money, Quantity, ResourceQuantity
from finetune_api.spec.compute import LabelKey, LabelValue, Name, Toleration, TolerationOperator
from finetune_api.spec.method import Engine
from finetune_api.spec.reft import PluginName
from pydantic import AfterValidator, Field, ValidationError, model_validator

from finetune_operator.settings.pod_template import checked

GIB = 1024**3
GPU = "nvidia.com/gpu"


HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


def _check_cidr(text: str) -> str:
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"write a range of addresses, such as 10.0.0.0/8 or 2001:db8::/32: {error}") from error
    return text


Cidr = Annotated[str, AfterValidator(_check_cidr)]
"""A range of addresses."""


PodTemplate = Annotated[dict[str, Any], AfterValidator(checked)]
"""Metadata and spec of a pod, in part."""


class BadSettings(ValueError):
    """The settings file can't be used; the message names every field and what to write."""


class Accelerator(ApiModel):
    """One kind of accelerator: how its nodes are found, what it has and what it costs."""

    resource: Annotated[str | None, Field(max_length=253), AfterValidator(lambda name: name or None)] = GPU
    """Extended resource that a pod asks for; null, or an empty string, for plain CPU nodes."""

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

    ephemeral_storage: ResourceQuantity = Quantity("200Gi")
    """Most that a trainer may write to its node's disk, for each accelerator: the model where no claim keeps it,
    checkpoints on their way, a merged export. It is the limit of the container and of each of its emptyDirs."""

    ephemeral_storage_request: ResourceQuantity | None = None
    """Disk that a node must have left for a trainer, for each accelerator; null asks for none, since not every kubelet
    says what it has. Under disk pressure a pod goes first that uses more than it asked for."""

    pod_template: PodTemplate = Field(default_factory=dict)
    """Merged into the pod template of its trainers, after that of all: a runtime class, a device for RDMA."""


DEFAULT_CATALOGUE = {
    **{name: Accelerator(node_selector={"nvidia.com/gpu.product": known.product}, memory=Quantity(
        f"{known.memory_gib}Gi"), hourly_price=known.hourly_price, ephemeral_storage=Quantity(
        "400Gi" if known.memory_gib >= 80 else "200Gi")) for name, known in KNOWN_ACCELERATORS.items()},
    "cpu": Accelerator(resource=None, tolerations=(), hourly_price=CPU_PRICE, cpu=Quantity("2"),
                       host_memory=Quantity("8Gi"), ephemeral_storage=Quantity("50Gi")),
}
"""An administrator writes their own prices and node labels. Of disk there is what a model takes that fits with nf4
(four times the accelerator's memory, in bfloat16), and as much again for a merged export."""


class Allowed(ApiModel):
    """What a user may write into a job beside the catalogue. Nothing by default: who may create a job must not gain a
    stronger account, another's nodes, or code of their choice in a trainer.
    """

    service_account_names: tuple[Name, ...] = ()
    """ServiceAccounts that trainers may run as."""

    priority_class_names: tuple[Name, ...] = ()
    """PriorityClasses that trainers may have."""

    node_labels: tuple[LabelKey, ...] = ()
    """Node labels that a job may select by."""

    toleration_keys: tuple[LabelKey, ...] = ()
    """Taint keys that a job may tolerate."""

    reward_plugins: tuple[PluginName, ...] = ()
    """Plug-ins that may reward responses (`method.reft.reward.plugin`): entry points of the group `finetune.rewards` in
    the trainer's image."""

    dataset_hosts: tuple[HostName, ...] = ()
    """Hosts that `https://` data sets may come from although their addresses are not public."""


class Peer(ApiModel):
    """Whom pods talk with: addresses, or pods by their labels and those of their namespace."""

    cidr: Cidr | None = None
    """A range of addresses, such as 10.0.0.0/8."""

    namespace_labels: dict[LabelKey, LabelValue] | None = None
    """Labels of the pods' namespaces; left out with podLabels: the job's own namespace."""

    pod_labels: dict[LabelKey, LabelValue] | None = None
    """Labels of the pods; left out with namespaceLabels: every pod there."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        by_labels = self.namespace_labels is not None or self.pod_labels is not None
        if (self.cidr is not None) == by_labels:
            raise ValueError("write either cidr, or namespaceLabels and podLabels")
        return self


class Destination(Peer):
    """What trainers may reach."""

    ports: tuple[Port, ...] = ()
    """TCP ports; none means all."""


METADATA = ("169.254.169.254/32", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128")
"""Where clouds hand a node's own credentials or configuration to whoever asks: most of them, Azure's host, Alibaba, and
over IPv6 AWS and Google."""

LINK_LOCAL = ("169.254.0.0/16",)
"""What a node answers itself: agents that hand out credentials, beside METADATA."""

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Addresses of the cluster's own networks and those beside it: RFC 1918, RFC 6598 and RFC 4193."""


class TrainerNetwork(ApiModel):
    """The NetworkPolicy of every job's pods. DNS is always open, and the pods of one job to each other."""

    scrapers: tuple[Peer, ...] = ()
    """Who may read `/progress` and `/metrics` of trainers: the operator and Prometheus."""

    destinations: tuple[Destination, ...] = (
        Destination(cidr="0.0.0.0/0", ports=(80, 443)), Destination(cidr="::/0", ports=(80, 443)))
    """What trainers may reach: models, data, S3. A destination by labels opens those pods wherever they are."""

    allow_metadata: bool = False
    """Let trainers reach the clouds' metadata addresses (METADATA, and all of 169.254.0.0/16), where a node's own
    credentials can be had. A destination within 169.254.0.0/16 that is none of METADATA opens itself alone."""

    allow_private: bool = True
    """Whether a destination opens the private ranges (PRIVATE) within it too. With false, what lies in them is a
    destination of its own: a narrower range, or pods by their labels."""

    node_local_dns: tuple[Cidr, ...] = ("169.254.20.10/32", "169.254.10.10/31")
    """Where nodes answer DNS themselves (NodeLocal DNSCache, AKS LocalDNS): open at port 53 alone."""

    @model_validator(mode="after")
    def _opens_no_metadata_by_the_way(self) -> Self:
        opened = {str(ip_network(one.cidr)) for one in self.destinations if one.cidr}
        if not self.allow_metadata and (named := sorted(opened & set(METADATA))):
            raise ValueError(f"destinations name {', '.join(named)}, the cloud's metadata address: write "
                             "allowMetadata: true if trainers are meant to have the node's credentials")
        return self

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """Ranges that no wider destination opens, since a node's own credentials can be had there."""
        return () if self.allow_metadata else (*LINK_LOCAL, *METADATA)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ranges that no wider destination opens."""
        return (*self.node_addresses, *(() if self.allow_private else PRIVATE))

    def opens(self, port: int) -> bool:
        """Whether a port can be reached anywhere."""
        return any(not one.ports or port in one.ports for one in self.destinations)


class PreflightSettings(ApiModel):
    """What the check before the start gets: a CPU, and no accelerator."""

    cpu: ResourceQuantity = Quantity("500m")
    """CPU request of its pod."""

    memory: ResourceQuantity = Quantity("4Gi")
    """Memory request and limit of its pod: the libraries take 1 GiB, the data set's rows the rest."""

    ephemeral_storage: ResourceQuantity = Quantity("100Gi")
    """Most that its pod may write to its node's disk: the data set, a GGUF file."""

    timeout: Duration = timedelta(minutes=30)
    """How long it may run."""

    queue_name: Name | None = None
    """LocalQueue of Kueue, in the job's namespace, that its Job is put into; null puts it into none."""

    parallelism: Annotated[int, Field(ge=1)] = 20
    """Checks that may run at the same time. Those that no node takes, or whose pod can't be made, are not counted."""

    parallelism_per_namespace: Annotated[int, Field(ge=1)] = 10
    """Checks that a namespace may have at the same time, whatever state they are in: none keeps the others waiting."""

    pod_template: PodTemplate | None = None
    """Merged into its pod template; null takes what the network needs of the trainers' own: the environment of the
    container `trainer`, the ConfigMaps and Secrets that it mounts, imagePullSecrets."""


class Settings(ApiModel):
    """The operator's settings."""

    trainer_image: Annotated[str, Field(min_length=1, max_length=1024)] = "ghcr.io/finetune-dev/finetune-trainer:0.1.0"
    """Image of the trainer, best by digest."""

    unsloth_image: Annotated[str, Field(min_length=1, max_length=1024)] = (
        "ghcr.io/finetune-dev/finetune-trainer-unsloth:0.1.0")
    """Image of the trainer for jobs with `engine: unsloth`, built from trainer/Dockerfile.unsloth."""

    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = "IfNotPresent"
    """When a node pulls it."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets, in the job's namespace, that open its registry."""

    trainer_port: Port = 8080
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

    allowed: Allowed = Allowed()
    """What a job may name beside the catalogue."""

    start_timeout: Duration = timedelta(minutes=10)
    """How long a scheduled pod may take to start before its job fails with the kubelet's words."""

    preflight: PreflightSettings = PreflightSettings()
    """The check before the start of jobs."""

    retry_delay: Duration = timedelta(seconds=10)
    """Wait before the first counted retry; doubled with each one more, ten minutes at most."""

    progress_interval: Duration = timedelta(seconds=5)
    """How often a trainer's progress is read, and at most written to a job's status."""

    termination_grace: Duration = timedelta(minutes=2)
    """Time that a trainer gets at least to checkpoint when it is asked to stop; a checkpoint that is expected to be
    large gets a second for every 50 MB."""

    model_cache_claim: Name | None = None
    """PersistentVolumeClaim, in the job's namespace, that keeps models between jobs; none keeps them in the pod."""

    pod_template: PodTemplate = Field(default_factory=dict)
    """Merged into every trainer's pod template (a proxy's environment, a sidecar, more volumes). Lists are merged by
    name, volumeMounts by mountPath; a volume or variable of another source takes the place of the one of its name."""

    trainer_network: TrainerNetwork | None = None
    """The NetworkPolicy of every job's pods; null makes none. The chart sets it: it knows the operator's labels."""

    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs that are worked on at the same time."""

    def image_for(self, engine: Engine) -> str:
        """The trainer's image for an engine."""
        return self.unsloth_image if engine is Engine.UNSLOTH else self.trainer_image


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
