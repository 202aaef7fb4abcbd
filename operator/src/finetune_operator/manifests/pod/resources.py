"""What a pod requests of its node: CPUs, memory, disk and accelerators. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.spec.compute import ComputeSpec
from finetune_api.values.quantities import Quantity

from finetune_operator.manifests.child import Manifest
from finetune_operator.settings import Accelerator

_DISK = "ephemeral-storage"


@dataclass(frozen=True)
class PodResources:
    """Resources of one pod.

    Attributes:
        cpu: request.
        memory: request and limit.
        disk: limit of the container and of each of its emptyDirs.
        disk_request: None requests no disk.
        accelerators: how many of each extended resource.
    """

    cpu: Quantity
    memory: Quantity
    disk: Quantity
    disk_request: Quantity | None = None
    accelerators: tuple[tuple[str, int], ...] = ()

    def as_manifest(self) -> Manifest:
        """Requests and limits of the container."""
        devices = {resource: str(count) for resource, count in self.accelerators}
        # Without a request of its own, Kubernetes would request the limit.
        disk_request = str(self.disk_request) if self.disk_request else "0"
        return {"requests": {"cpu": str(self.cpu), "memory": str(self.memory), _DISK: disk_request, **devices},
                "limits": {"memory": str(self.memory), _DISK: str(self.disk), **devices}}


def trainer_resources(compute: ComputeSpec, accelerator: Accelerator) -> PodResources:
    """Resources of a trainer: what the job asks for, or the catalogue's share for each accelerator."""
    count = _shares(compute, accelerator)
    request = accelerator.ephemeral_storage_request
    return PodResources(
        cpu=compute.cpu or _times(accelerator.cpu, count),
        memory=host_memory(compute, accelerator),
        disk=_times(accelerator.ephemeral_storage, count),
        disk_request=_times(request, count) if request else None,
        accelerators=((accelerator.resource, count),) if accelerator.resource else (),
    )


def host_memory(compute: ComputeSpec, accelerator: Accelerator) -> Quantity:
    """Host memory of one trainer's pod."""
    return compute.memory or _times(accelerator.host_memory, _shares(compute, accelerator))


def _shares(compute: ComputeSpec, accelerator: Accelerator) -> int:
    """How many accelerators' share of the host one pod gets."""
    return compute.gpus_per_node if accelerator.resource else 1


def _times(quantity: Quantity, count: int) -> Quantity:
    return quantity if count == 1 else Quantity(f"{int(quantity.value * count * 1000)}m")
