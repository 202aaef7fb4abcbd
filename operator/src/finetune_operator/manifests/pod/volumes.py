"""The volumes of a trainer and of a check, and where they are mounted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.uris import Uri

from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.pod.resources import PodResources
from finetune_operator.settings import Settings

PVC_ROOT = "/pvc"
CACHE = "/cache"


@dataclass(frozen=True)
class Volume:
    """A volume of a pod, mounted into the trainer's container.

    Attributes:
        name: of the volume.
        source: one of Kubernetes' volume sources.
        path: where it is mounted.
        read_only: whether the container may only read it.
    """

    name: str
    source: Manifest
    path: str
    read_only: bool = False

    def as_manifest(self) -> Manifest:
        """The pod's part."""
        return {"name": self.name, **self.source}

    def mount(self) -> Manifest:
        """The container's part."""
        return {"name": self.name, "mountPath": self.path, "readOnly": self.read_only}


def config_volume(name: str, config_map: str, path: str) -> Volume:
    """A ConfigMap as a folder."""
    return Volume(name, {"configMap": {"name": config_map}}, path, read_only=True)


def working_volumes(spec: FineTuneJobSpec, settings: Settings, resources: PodResources) -> tuple[Volume, ...]:
    """Temporary files, shared memory, the model cache and the job's claims."""
    return _volumes(resources, settings.model_cache_claim, _job_claims(spec))


def report_volumes(outputs: Iterable[Uri], resources: PodResources) -> tuple[Volume, ...]:
    """Temporary files, and the claims with the outputs of an experiment's jobs."""
    return _volumes(resources, None, {output.authority: False for output in outputs if output.scheme == "pvc"})


def _volumes(resources: PodResources, cache_claim: str | None, named: Mapping[str, bool]) -> tuple[Volume, ...]:
    """The volumes of a pod; the claims are those that it names, and whether it only reads them."""
    scratch = {"emptyDir": {"sizeLimit": str(resources.disk)}}
    cache = {"persistentVolumeClaim": {"claimName": cache_claim}} if cache_claim else scratch
    # Data loaders and NCCL need more than the default of 64 MiB. It counts as the container's memory.
    shared_memory = {"emptyDir": {"medium": "Memory", "sizeLimit": str(resources.memory)}}
    return (
        Volume("tmp", scratch, "/tmp"),
        Volume("shm", shared_memory, "/dev/shm"),
        Volume("cache", cache, CACHE),
        *(Volume(f"claim-{index}", {"persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}},
                 f"{PVC_ROOT}/{claim}", read_only)
          for index, (claim, read_only) in enumerate(sorted(named.items()))),
    )


def claims(spec: FineTuneJobSpec, settings: Settings) -> frozenset[str]:
    """Names of the claims that a job's pods mount."""
    cache = (settings.model_cache_claim,) if settings.model_cache_claim else ()
    return frozenset((*_job_claims(spec), *cache))


def _job_claims(spec: FineTuneJobSpec) -> dict[str, bool]:
    """The claims that a job names, and whether it only reads them."""
    named: dict[str, bool] = {}
    for location, read_only in ((spec.model.source, True), (spec.dataset.source, True), (spec.output.uri, False)):
        if location.scheme == "pvc":
            named[location.authority] = named.get(location.authority, True) and read_only
    return named
