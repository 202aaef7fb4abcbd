"""What is watched and listed."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.definition.crd import PLURAL
from finetune_api.job import KIND
from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.names import SELECTOR


@dataclass(frozen=True)
class WatchedKind:
    """A kind of object that the operator watches.

    Attributes:
        api_version: group and version.
        kind: of the object.
        plural: in the apiserver's paths.
        selector: label selector; empty for all objects.
    """

    api_version: str
    kind: str
    plural: str
    selector: str

    @property
    def resource(self) -> tuple[str, str, str]:
        """Group, version and plural, as kopf names a resource."""
        group, _, version = self.api_version.rpartition("/")
        return group, version, self.plural


WATCHED = (
    WatchedKind(f"{GROUP}/{VERSION}", KIND, PLURAL, ""),
    WatchedKind("batch/v1", "Job", "jobs", SELECTOR),
    WatchedKind("v1", "Pod", "pods", SELECTOR),
    WatchedKind("v1", "ConfigMap", "configmaps", SELECTOR),
    WatchedKind("v1", "Service", "services", SELECTOR),
    WatchedKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", SELECTOR),
)
