"""The Kubernetes API as plain JSON over aiohttp.

The operator does not use the official client: importing it takes 90 MiB, and its typed calls take four times the CPU
time of plain data (docs/decisions/2026-11-24-operator.md has the figures).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import kopf

from finetune_operator.cluster.apiserver.decoding import RawObject, decode
from finetune_operator.cluster.apiserver.login import log_in
from finetune_operator.cluster.apiserver.paths import collection_path, list_path, object_path
from finetune_operator.errors import ApiError, NoCluster
from finetune_operator.names import MANAGER
from finetune_operator.telemetry.metrics import REQUESTS

TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_TIMEOUT = aiohttp.ClientTimeout(total=30)
PAGE = 50
"""Objects of a list in one request. An object has up to 1.5 MB, and anybody can create objects with our label."""

_LONGEST_MESSAGE = 200
"""Characters of an answer that is not JSON, quoted in an error."""


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
            raise NoCluster("no apiserver to connect to: run in a pod with a service account, or set KUBECONFIG")
        return cls(info)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _headers(self) -> dict[str, str]:
        info = self._info
        if info.token and TOKEN.exists():  # The kubelet renews it about every hour.
            info = dataclasses.replace(info, token=TOKEN.read_text().strip())
        return info.as_http_headers()

    async def request(self, method: str, path: str, body: RawObject | None = None,
                      content_type: str = "application/json") -> RawObject:
        """Send one request.

        Raises:
            ApiError: the apiserver refused the request, or did not answer in time (it may wait for a webhook).
            aiohttp.ClientError, OSError: the apiserver cannot be reached.
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
        answer: RawObject = decode(content)
        return answer

    async def create(self, manifest: RawObject) -> RawObject:
        """Create an object."""
        return await self.request("POST", collection_path(manifest), manifest)

    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> RawObject:
        """Read an object."""
        return await self.request("GET", object_path(_reference(api_version, kind, namespace, name)))

    async def apply(self, manifest: RawObject) -> RawObject:
        """Server-side apply an object, as the only owner of its fields."""
        query = urlencode({"fieldManager": MANAGER, "force": "true"})
        return await self.request("PATCH", f"{object_path(manifest)}?{query}", manifest,
                                  "application/apply-patch+yaml")

    async def merge(self, manifest: RawObject) -> RawObject:
        """Merge a patch into an object, which it names; a uid in it is a precondition."""
        return await self.request("PATCH", f"{object_path(manifest)}?fieldManager={MANAGER}", manifest,
                                  "application/merge-patch+json")

    async def replace_status(self, body: RawObject) -> RawObject:
        """Write an object's status; its resourceVersion is a precondition."""
        return await self.request("PUT", f"{object_path(body)}/status?fieldManager={MANAGER}", body)

    async def delete(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        """Delete an object after the objects that it owns. An object that does not exist is no error."""
        path = object_path(_reference(api_version, kind, namespace, name))
        try:
            await self.request("DELETE", path, {"propagationPolicy": "Foreground"})
        except ApiError as error:
            if not error.is_missing:
                raise

    async def events(self, namespace: str, selector: str) -> list[RawObject]:
        """The Events of a namespace that match a field selector, at most 100."""
        query = urlencode({"fieldSelector": selector, "limit": "100"})
        answer = await self.request("GET", f"{list_path('v1', 'Event', namespace)}?{query}")
        events: list[RawObject] = answer["items"]
        return events

    async def list_into(self, path: str, selector: str, take: Callable[[RawObject], None]) -> int:
        """Pass every item of a list to `take`, page by page.

        Returns:
            The list's resource version.
        """
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            answer = await self.request("GET", f"{path}?{urlencode(query)}")
            for item in answer["items"]:
                # The items of a list have no kind.
                take({"kind": answer["kind"].removesuffix("List"), **item})
            if not answer["metadata"].get("continue"):
                return int(answer["metadata"]["resourceVersion"])
            query["continue"] = answer["metadata"]["continue"]


def _reference(api_version: str, kind: str, namespace: str, name: str) -> RawObject:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace, "name": name}}


def _refusal(status: int, content: bytes) -> ApiError:
    try:
        answer = decode(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):  # The answer of a proxy.
        return ApiError(status, "", content[:_LONGEST_MESSAGE].decode("utf-8", "replace"))
    causes = (answer.get("details") or {}).get("causes") or ()
    fields = tuple(cause["field"] for cause in causes if cause.get("field"))
    return ApiError(status, answer.get("reason") or "", answer.get("message") or "", fields)
