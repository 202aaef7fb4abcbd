"""The accelerator catalogue: the name in a job's `compute.accelerator`, and what stands behind it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from finetune_api.estimate.catalogue import CPU_PRICE, KNOWN_ACCELERATORS
from finetune_api.spec.compute import LabelKey, LabelValue, Toleration, TolerationOperator
from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import Money, Quantity, ResourceQuantity
from pydantic import AfterValidator, Field

from finetune_operator.settings.pod_template import PodTemplate

_GPU = "nvidia.com/gpu"
_LARGE_GIB = 80


class Accelerator(ApiModel):
    """One kind of accelerator: how to find its nodes, what one accelerator has and what it costs."""

    resource: Annotated[str | None, Field(max_length=253), AfterValidator(lambda name: name or None)] = _GPU
    """Extended resource that a pod requests; null or an empty string for nodes that have only CPUs."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels of the nodes that have the accelerator."""

    tolerations: tuple[Toleration, ...] = (Toleration(key=_GPU, operator=TolerationOperator.EXISTS),)
    """Taints of these nodes that trainers tolerate."""

    memory: ResourceQuantity | None = None
    """Memory of one accelerator."""

    hourly_price: Money = Decimal(0)
    """Price of one accelerator for one hour, in the settings' currency."""

    cpu: ResourceQuantity = Quantity("4")
    """CPU request of a trainer for each accelerator. A job's `compute.cpu` overrides it."""

    host_memory: ResourceQuantity = Quantity("24Gi")
    """Memory request and limit of a trainer for each accelerator. A job's `compute.memory` overrides it."""

    ephemeral_storage: ResourceQuantity = Quantity("200Gi")
    """Disk space of the node that a trainer may use, for each accelerator: the model (unless a claim caches it),
    checkpoints before their upload, a merged export. The limit applies to the container and to each emptyDir."""

    ephemeral_storage_request: ResourceQuantity | None = None
    """Free disk space that a node must have for a trainer, for each accelerator. null requests none, because some
    kubelets do not report their disk. Under disk pressure, a kubelet first evicts pods that use more than they
    requested."""

    pod_template: PodTemplate = Field(default_factory=dict)
    """Part of a pod template, merged into the pods of this accelerator's trainers after the template for all trainers.
    Use it for a runtime class or an RDMA device."""

    @property
    def can_be_chosen(self) -> bool:
        """Whether `compute.accelerator: auto` may mean it: a GPU whose memory is known, so that a job can be
        estimated."""
        return self.resource is not None and self.memory is not None


DEFAULT_CATALOGUE = {
    **{name: Accelerator(
        node_selector={"nvidia.com/gpu.product": known.product}, memory=Quantity(f"{known.memory_gib}Gi"),
        hourly_price=known.hourly_price,
        ephemeral_storage=Quantity("400Gi" if known.memory_gib >= _LARGE_GIB else "200Gi"),
    ) for name, known in KNOWN_ACCELERATORS.items()},
    "cpu": Accelerator(resource=None, tolerations=(), hourly_price=CPU_PRICE, cpu=Quantity("2"),
                       host_memory=Quantity("8Gi"), ephemeral_storage=Quantity("50Gi")),
}
"""The catalogue that applies until an administrator writes their own prices and node labels.

The disk holds the largest model that fits with nf4 (in bfloat16 it has four times the accelerator's memory) and a
merged export of the same size.
"""
