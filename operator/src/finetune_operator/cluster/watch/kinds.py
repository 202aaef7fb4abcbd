"""What is watched and listed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.definition.crd import PLURAL
from finetune_api.definition.experiment_crd import EXPERIMENT_PLURAL
from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.job import KIND
from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.paths import list_path
from finetune_operator.errors import AUTHORIZATION, ApiError
from finetune_operator.names import SELECTOR

_log = logging.getLogger(__name__)


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
    WatchedKind(f"{GROUP}/{VERSION}", EXPERIMENT_KIND, EXPERIMENT_PLURAL, ""),
    WatchedKind("batch/v1", "Job", "jobs", SELECTOR),
    WatchedKind("v1", "Pod", "pods", SELECTOR),
    WatchedKind("v1", "ConfigMap", "configmaps", SELECTOR),
    WatchedKind("v1", "Service", "services", SELECTOR),
    WatchedKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", SELECTOR),
)


async def served_kinds(client: Client, namespaces: Sequence[str]) -> tuple[WatchedKind, ...]:
    """What to watch: everything, but experiments only where the cluster has them.

    A cluster may have the CustomResourceDefinitions or the role of an earlier release, and jobs must run there.

    Raises:
        ApiError: the apiserver refused something else.
    """
    experiments = next(one for one in WATCHED if one.kind == EXPERIMENT_KIND)
    path = list_path(experiments.api_version, experiments.kind, namespaces[0] if namespaces else None)
    try:
        await client.request("GET", f"{path}?limit=1")
    except ApiError as error:
        if not error.is_missing and error.refused_by != AUTHORIZATION:
            raise
        _log.warning("experiments are not served: %s. Install this release's CustomResourceDefinitions and role, and "
                     "start the operator again", error)
        return tuple(one for one in WATCHED if one is not experiments)
    return WATCHED
