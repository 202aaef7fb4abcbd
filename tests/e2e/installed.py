"""The operator as users have it: from its image, in its pod, installed by the chart, with the chart's own rights."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.chart.release import Release
from tests.cluster.cluster import Cluster
from tests.cluster.existing import ExistingCluster
from tests.cluster.waiting import wait_for

DEPLOYMENT = "deployment/finetune-operator"


def image_value(name: str) -> dict[str, str]:
    """An image's name as the chart's values have it."""
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}


class Installed:
    """The chart's release. It rests, with no replica, until it is wanted.

    Attributes:
        account: the kubeconfig of the operator's ServiceAccount, for operators that a test runs itself.
    """

    def __init__(self, cluster: Cluster | ExistingCluster, settings: dict[str, Any]) -> None:
        self._plane = cluster.control_plane
        self._release = Release(self._plane, cluster.namespace("finetune", "restricted"))
        self._values = {"replicaCount": 1, "image": image_value(cluster.image("operator")),
                        "trainerImage": image_value(cluster.image("trainer")), "settings": settings,
                        "crds": {"keep": False}}
        self.install()

    def install(self) -> None:
        """`helm install`, then let it rest."""
        self._release.install(self._values)
        self.account = self._release.kubeconfig("finetune-operator")
        self._runs = True
        self.rest()

    def run(self) -> None:
        """Let it work; returns when it leads."""
        if not self._runs:
            self._scale(1)
            wait_for(lambda: "finetune_operator_leader 1.0" in self.exposition(), "the operator to lead", 120)
        self._runs = True

    def rest(self) -> None:
        """Let it rest; returns when its pod is gone."""
        if self._runs:
            self._scale(0)
            wait_for(lambda: not self._pods(), "the operator's pod to leave", 60)
        self._runs = False

    def log(self) -> str:
        """What it has logged since it began to run."""
        return self._plane.kubectl("logs", "-n", self._release.namespace, DEPLOYMENT, "--tail=-1").stdout

    def exposition(self) -> str:
        """What /metrics answers; nothing while it does not."""
        addresses = [pod["status"].get("podIP") for pod in self._pods()]
        try:
            return httpx.get(f"http://{addresses[0]}:9090/metrics", trust_env=False, timeout=10).text
        except (httpx.HTTPError, IndexError):
            return ""

    def remove(self) -> None:
        """`helm uninstall`."""
        self._release.uninstall()

    def _scale(self, replicas: int) -> None:
        self._plane.kubectl("scale", "-n", self._release.namespace, DEPLOYMENT, f"--replicas={replicas}")

    def _pods(self) -> list[dict[str, Any]]:
        listed = self._plane.kubectl("get", "pods", "-n", self._release.namespace, "-o", "json").stdout
        pods: list[dict[str, Any]] = json.loads(listed)["items"]
        return pods
