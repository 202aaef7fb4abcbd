"""kubectl on one cluster, whoever runs it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

import httpx

from tests.cluster.binaries import command
from tests.cluster.waiting import wait_for


class Kubectl(ABC):
    """A cluster as kubectl sees it.

    Attributes:
        kubeconfig: that of an administrator.
    """

    def __init__(self, kubeconfig: Path):
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str | Path, input: str | None = None,
                check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the administrator.

        Args:
            arguments: its arguments; a `--kubeconfig` among them acts as another user.
            input: its standard input.
            check: whether a failure raises.

        Raises:
            RuntimeError: it failed; quotes what it said.
        """
        done = subprocess.run([*command("kubectl"), *map(str, arguments)], input=input, capture_output=True, text=True,
                              check=False, env={**os.environ, "KUBECONFIG": str(self.kubeconfig)})
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stderr}")
        return done

    def get(self, *arguments: str) -> dict:
        """What `kubectl get ARGUMENTS` finds, as parsed JSON."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    @abstractmethod
    def client(self, user: str | None = None) -> httpx.Client:
        """A connection to the apiserver: an administrator's, or that of a user whom RBAC grants something."""

    def namespace(self, prefix: str = "test", pod_security: str = "privileged") -> str:
        """A fresh namespace, ready for pods, that enforces a pod security level."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {"pod-security.kubernetes.io/enforce": pod_security}}}))
        self._wait_for_account(name)
        return name

    def _wait_for_account(self, namespace: str) -> None:
        # The controller manager makes it; a pod made before is refused.
        wait_for(lambda: self.kubectl("get", "serviceaccount", "default", "-n", namespace, check=False).returncode == 0,
                 f"the service account of namespace {namespace}")
