"""The Kubernetes API as plain JSON, over the official client's asynchronous transport.

The client's typed models cost four times the CPU of plain data and are not used; its configuration, authentication and
connection pool are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException

from finetune_operator.metrics import REQUESTS
from finetune_operator.names import MANAGER

Object = dict[str, Any]
_TIMEOUT = 30.0
_PAGE = 500
_PLURALS = {"Job": "jobs", "ConfigMap": "configmaps", "Service": "services", "Event": "events", "Pod": "pods",
            "Lease": "leases", "FineTuneJob": "finetunejobs"}


class ApiError(Exception):
    """The apiserver's refusal: `status` is its HTTP code, `reason` its machine-readable word."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"{status} {reason}: {message}")


class Client:
    """A connection to the apiserver: in a pod by its service account, else by KUBECONFIG."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Client:
        """Open a connection.

        Raises:
            ConfigException: neither a service account nor a kubeconfig is there.
        """
        configuration = Configuration()
        try:
            if kubeconfig is not None:
                raise kube_config.ConfigException
            kube_config.load_incluster_config(client_configuration=configuration)
        except kube_config.ConfigException:
            await kube_config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        return cls(ApiClient(configuration))

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def request(self, method: str, path: str, body: Object | None = None,
                      content_type: str = "application/json") -> Object:
        """One request.

        Raises:
            ApiError: the apiserver refused.
            OSError, TimeoutError: it can't be reached.
        """
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"])
            response = await self._api.rest_client.request(
                method, self._api.configuration.host + path, headers=headers, body=body, _request_timeout=_TIMEOUT)
        except ApiException as error:
            REQUESTS.labels(method, error.status).inc()
            raise _refusal(error) from None
        REQUESTS.labels(method, response.status).inc()
        answer: Object = json.loads(response.data)
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
            if error.status != 404:
                raise

    async def list_into(self, path: str, selector: str, take: Callable[[Object], None]) -> int:
        """Hand every item of a list to `take`, page by page; the list's resource version."""
        query = {"limit": str(_PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            answer = await self.request("GET", f"{path}?{urlencode(query)}")
            for item in answer["items"]:
                # Items of a list come without their kind.
                take({"kind": answer["kind"].removesuffix("List"), **item})
            if not answer["metadata"].get("continue"):
                return int(answer["metadata"]["resourceVersion"])
            query["continue"] = answer["metadata"]["continue"]


def _refusal(error: ApiException) -> ApiError:
    try:
        answer = json.loads(error.body or "{}")
    except ValueError:
        answer = {}
    return ApiError(error.status or 0, answer.get("reason") or error.reason or "", answer.get("message") or "")


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
