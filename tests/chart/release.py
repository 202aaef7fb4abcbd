"""The chart, rendered or installed by the real helm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from finetune_api.job import KIND
from finetune_api.values.api_model import GROUP, VERSION

from charts.generate import CHART
from tests.cluster.binaries import command
from tests.cluster.control_plane import ControlPlane
from tests.cluster.existing import ExistingCluster
from tests.cluster.waiting import wait_for
from tests.operator.operators import Operator

CRDS = ("crd/finetunejobs.finetune.dev", "crd/finetuneexperiments.finetune.dev")


class HelmFailed(AssertionError):
    """helm refused; the message is what it said."""


def helm(*arguments: str | Path, values: Mapping[str, Any] | None = None, home: Path = Path("/tmp"),
         kubeconfig: Path | None = None) -> str:
    """Run helm; what it prints.

    Raises:
        HelmFailed: it ended with an error.
    """
    done = subprocess.run(
        [*command("helm"), *map(str, arguments), *(["--values", "-"] if values is not None else [])],
        input=json.dumps(values) if values is not None else None, capture_output=True, text=True, check=False,
        env={**os.environ, "KUBECONFIG": str(kubeconfig or "/nowhere"), "HELM_CACHE_HOME": str(home / "cache"),
             "HELM_CONFIG_HOME": str(home / "config"), "HELM_DATA_HOME": str(home / "data")})
    if done.returncode:
        raise HelmFailed(done.stderr)
    return done.stdout


def render(values: Mapping[str, Any] | None = None, namespace: str = "finetune-system") -> list[dict[str, Any]]:
    """The objects that the chart makes of some values."""
    text = helm("template", "finetune", CHART, "--namespace", namespace, values=values or {})
    return [one for one in yaml.safe_load_all(text) if one]


def only(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The one object of a kind whose name holds `name`."""
    (found,) = [one for one in objects if one["kind"] == kind and name in one["metadata"]["name"]]
    return found


class Release:
    """The chart on a control plane.

    Attributes:
        namespace: where the operator is.
    """

    def __init__(self, plane: ControlPlane | ExistingCluster, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """`helm install`, and wait until jobs are known, as owners too."""
        self._helm("install", "finetune", CHART, values=values or {})
        self.plane.kubectl("wait", "--for=condition=Established", *CRDS, "--timeout=30s")
        wait_for(lambda: self._may_own(((values or {}).get("namespaces") or [self.namespace])[0]),
                 "the account to be allowed children of a job", seconds=90)

    def _may_own(self, namespace: str) -> bool:
        """Whether the operator's account may make a child; a check of owner references learns a new kind late."""
        owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": "x", "uid": "x", "blockOwnerDeletion": True}
        child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "ownerReferences": [owner]}}
        answer = self.plane.kubectl(
            "create", "--dry-run=server", "-n", namespace, "-f", "-", "--as",
            f"system:serviceaccount:{self.namespace}:finetune-operator", input=json.dumps(child), check=False)
        assert answer.returncode == 0, answer.stderr
        return True

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """`helm upgrade`."""
        self._helm("upgrade", "finetune", CHART, values=values)

    def uninstall(self) -> None:
        """`helm uninstall`."""
        self._helm("uninstall", "finetune")

    def remove(self) -> None:
        """Leave nothing."""
        self._helm("uninstall", "finetune", "--ignore-not-found")
        self.plane.kubectl("delete", *CRDS, "--ignore-not-found", "--timeout=60s")

    def _helm(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> None:
        helm(*arguments, "--namespace", self.namespace, values=values, home=self.plane.folder,
             kubeconfig=self.plane.kubeconfig)

    def operator(self, identity: str = "operator-0") -> Operator:
        """What a pod of the Deployment runs: its arguments, its settings, its service account's token, nothing else."""
        pod = self.plane.get("deployment", "finetune-operator", "-n", self.namespace)["spec"]["template"]["spec"]
        settings = self.plane.get("configmap", "finetune-operator-settings", "-n", self.namespace)
        file = self.plane.folder / f"{self.namespace}-{identity}-settings.yaml"
        file.write_text(settings["data"]["settings.yaml"])
        replaced = {"--settings=/etc/finetune/settings.yaml": f"--settings={file}",
                    "--identity=$(POD_NAME)": f"--identity={identity}", "--metrics-port=9090": "--metrics-port=0"}
        arguments = [replaced.pop(one, one) for one in pod["containers"][0]["args"]]
        assert not replaced, f"the Deployment no longer says {list(replaced)}"
        account = self.kubeconfig(pod["serviceAccountName"])
        return Operator.with_arguments(self.plane, f"{self.namespace}-{identity}-{file.stat().st_mtime_ns}",
                                       [*arguments, "--kubeconfig", account])

    def kubeconfig(self, account: str) -> Path:
        """The kubeconfig of a service account, by its token."""
        token = self.plane.kubectl("create", "token", account, "-n", self.namespace, "--duration=2h").stdout.strip()
        seen = json.loads(self.plane.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json").stdout)
        path = self.plane.folder / f"{self.namespace}-{account}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "pod",
            "clusters": [{"name": "test", "cluster": seen["clusters"][0]["cluster"]}],
            "users": [{"name": "pod", "user": {"token": token}}],
            "contexts": [{"name": "pod", "context": {"cluster": "test", "user": "pod"}}],
        }))
        return path
