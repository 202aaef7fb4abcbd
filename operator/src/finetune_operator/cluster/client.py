"""The Kubernetes API as plain JSON over aiohttp, logged in as kopf is.

The official client is not used: importing it takes 90 MiB, and its typed calls cost four times the CPU of plain data
(docs/decisions/2026-11-24-operator.md has the figures).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import kopf

from finetune_operator.cluster.decoding import decode
from finetune_operator.errors import ApiError, NoCluster
from finetune_operator.names import MANAGER
from finetune_operator.telemetry.metrics import REQUESTS

Object = dict[str, Any]
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_TIMEOUT = aiohttp.ClientTimeout(total=30)
PAGE = 50
"""Objects of a list that are read at once. An object has up to 1.5 MB, and of our label there is what anybody made."""

_SHOWN = 200
_PLURALS = {"Job": "jobs", "ConfigMap": "configmaps", "Service": "services", "Event": "events", "Pod": "pods",
            "Lease": "leases", "NetworkPolicy": "networkpolicies",
            "PersistentVolumeClaim": "persistentvolumeclaims", "FineTuneJob": "finetunejobs"}


def log_in(**known: Any) -> kopf.ConnectionInfo | None:
    """How to reach the apiserver: in a pod by its service account, else by KUBECONFIG; None where neither is there."""
    known.setdefault("settings", kopf.OperatorSettings())
    account = kopf.login_with_service_account(**known)
    if account is None:
        return kopf.login_with_kubeconfig(**known)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if host and port:  # The address itself: its name would need the cluster's DNS.
        host = f"[{host}]" if ":" in host else host
        account = dataclasses.replace(account, server=f"https://{host}:{port}")
    return account


class Client:
    """A connection to the apiserver."""

    def __init__(self, info: kopf.ConnectionInfo) -> None:
        self._info = info
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=info.as_ssl_context(), limit=0), timeout=_TIMEOUT)

    @classmethod
    def connect(cls) -> Client:
        """Open a connection.

        Raises:
            NoCluster: there is nothing to connect to.
        """
        info = log_in()
        if info is None:
            raise NoCluster("no cluster to serve: run in a pod with a service account, or set KUBECONFIG")
        return cls(info)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _headers(self) -> dict[str, str]:
        info = self._info
        if info.token and TOKEN.exists():  # The kubelet renews it every hour or so.
            info = dataclasses.replace(info, token=TOKEN.read_text().strip())
        return info.as_http_headers()

    async def request(self, method: str, path: str, body: Object | None = None,
                      content_type: str = "application/json") -> Object:
        """One request.

        Raises:
            ApiError: the apiserver refused, or gave no answer in time (a webhook that it waits for).
            aiohttp.ClientError, OSError: it can't be reached.
        """
        headers = {**self._headers(), "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body)
        try:
            async with self._http.request(method, self._info.server + path, data=data, headers=headers) as response:
                content = await response.read()
                status, refusal = response.status, None if response.ok else _refusal(response.status, content)
        except TimeoutError:
            words = f"{method} {path.partition('?')[0]} was not answered in {_TIMEOUT.total:.0f} s"
            status, refusal = HTTPStatus.GATEWAY_TIMEOUT, ApiError(HTTPStatus.GATEWAY_TIMEOUT, "Timeout", words)
        REQUESTS.labels(method, status, refusal.refused_by if refusal else "").inc()
        if refusal:
            raise refusal
        answer: Object = decode(content)
        return answer

    async def create(self, manifest: Object) -> Object:
        """Make an object."""
        return await self.request("POST", collection_path(manifest), manifest)

    async def apply(self, manifest: Object) -> Object:
        """Server-side apply an object, as the one owner of its fields."""
        query = urlencode({"fieldManager": MANAGER, "force": "true"})
        return await self.request("PATCH", f"{object_path(manifest)}?{query}", manifest,
                                  "application/apply-patch+yaml")

    async def replace_status(self, body: Object) -> Object:
        """Write an object's status; its resourceVersion is a precondition."""
        return await self.request("PUT", f"{object_path(body)}/status?fieldManager={MANAGER}", body)

    async def delete(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        """Delete an object after what it owns; one that is gone is as good."""
        path = object_path({"apiVersion": api_version, "kind": kind,
                            "metadata": {"namespace": namespace, "name": name}})
        try:
            await self.request("DELETE", path, {"propagationPolicy": "Foreground"})
        except ApiError as error:
            if not error.is_missing:
                raise

    async def events(self, namespace: str, selector: str) -> list[Object]:
        """The events of a namespace that a field selector has, at most a hundred."""
        query = urlencode({"fieldSelector": selector, "limit": "100"})
        answer = await self.request("GET", f"{list_path('v1', 'Event', namespace)}?{query}")
        events: list[Object] = answer["items"]
        return events

    async def list_into(self, path: str, selector: str, take: Callable[[Object], None]) -> int:
        """Hand every item of a list to `take`, page by page; the list's resource version."""
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            answer = await self.request("GET", f"{path}?{urlencode(query)}")
            for item in answer["items"]:
                # Items of a list come without their kind.
                take({"kind": answer["kind"].removesuffix("List"), **item})
            if not answer["metadata"].get("continue"):
                return int(answer["metadata"]["resourceVersion"])
            query["continue"] = answer["metadata"]["continue"]


def _refusal(status: int, content: bytes) -> ApiError:
    try:
        answer = decode(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):  # A proxy's words.
        return ApiError(status, "", content[:_SHOWN].decode("utf-8", "replace"))
    causes = (answer.get("details") or {}).get("causes") or ()
    fields = tuple(cause["field"] for cause in causes if cause.get("field"))
    return ApiError(status, answer.get("reason") or "", answer.get("message") or "", fields)


def list_path(api_version: str, kind: str, namespace: str | None) -> str:
    """The path of a collection: in one namespace, or in all."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    return f"{root}/namespaces/{namespace}/{_PLURALS[kind]}" if namespace else f"{root}/{_PLURALS[kind]}"


def collection_path(manifest: Mapping[str, Any]) -> str:
    """The path of the collection that an object belongs to."""
    return list_path(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"])


def object_path(manifest: Mapping[str, Any]) -> str:
    """The path of an object."""
    return f"{collection_path(manifest)}/{manifest['metadata']['name']}"
