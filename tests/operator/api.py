"""The apiserver over plain HTTPS: a hundred requests cost less than one kubectl."""

from __future__ import annotations

from typing import Any

from finetune_operator.cluster.apiserver.decoding import decode
from finetune_operator.cluster.apiserver.paths import list_path

from tests.cluster.kubectl import Kubectl

JOBS = "finetune.dev/v1alpha1"


class Refused(AssertionError):
    """The apiserver refused; `message` is what it said."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(f"{status}: {message}")


class Api:
    """An administrator's requests, or those of a user whom RBAC grants something."""

    def __init__(self, cluster: Kubectl, user: str | None = None) -> None:
        self._http = cluster.client(user)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __call__(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """One request; the answer, parsed.

        Raises:
            Refused: the apiserver did not answer with success.
        """
        answer = self._http.request(method, path, json=body, headers={"Content-Type": content})
        if not answer.is_success:
            raise Refused(answer.status_code, answer.json().get("message", ""))
        return decode(answer.content)

    def path(self, kind: str, namespace: str, name: str = "") -> str:
        """The path of objects of a kind, or of one."""
        version = {"FineTuneJob": JOBS, "FineTuneExperiment": JOBS, "Job": "batch/v1",
                   "Lease": "coordination.k8s.io/v1"}.get(kind, "v1")
        path = list_path(version, kind, namespace)
        return f"{path}/{name}" if name else path

    def get(self, kind: str, namespace: str, name: str) -> Any:
        """One object."""
        return self("GET", self.path(kind, namespace, name))

    def list(self, kind: str, namespace: str) -> list[Any]:
        """All objects of a kind in a namespace."""
        items: list[Any] = self("GET", self.path(kind, namespace))["items"]
        return items

    def create(self, kind: str, namespace: str, body: Any, query: str = "") -> Any:
        """Make an object."""
        return self("POST", self.path(kind, namespace) + query, body)

    def patch(self, kind: str, namespace: str, name: str, body: Any, part: str = "") -> Any:
        """Merge a patch into an object, or into a subresource of it."""
        path = self.path(kind, namespace, name)
        return self("PATCH", f"{path}/{part}" if part else path, body, "application/merge-patch+json")

    def delete(self, kind: str, namespace: str, name: str, propagation: str = "Background") -> None:
        """Delete an object."""
        self("DELETE", self.path(kind, namespace, name), {"propagationPolicy": propagation})
