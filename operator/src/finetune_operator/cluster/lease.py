"""One leader among replicas, by a Lease of coordination.k8s.io/v1, as client-go's leader election uses it.

The leader renews the Lease well before it expires, and stops acting when it could not renew. Another replica takes
over only after `DURATION` seconds in which it saw no renewal, by its own clock. The clocks of two machines are never
compared.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from aiohttp import ClientError

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.paths import collection_path, object_path
from finetune_operator.errors import ApiError, LeaseLost
from finetune_operator.telemetry.metrics import LEADER

DURATION = 15.0
"""Seconds without a renewal after which another replica may take over."""

RENEW_DEADLINE = 10.0
"""Seconds without a renewal after which the leader stops acting."""

RETRY = 2.0
"""Seconds between two attempts to acquire or renew."""

_UNKNOWN = ""
"""The holder of a Lease that could not be read or written."""

_log = logging.getLogger(__name__)


class Lease:
    """This replica's claim to lead."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str, clock: Callable[[], datetime]) -> None:
        self._client, self._identity, self._clock = client, identity, clock
        self._reference = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                           "metadata": {"namespace": namespace, "name": name}}
        self._other_version: tuple[str, float] | None = None
        """Another leader's last renewal: the Lease's resource version, and the event loop's time when it was seen."""
        self._renewed = -math.inf

    def check(self) -> None:
        """Check before each action that this replica may act: a loop that stood still has not noticed the time.

        Raises:
            LeaseLost: the Lease was not renewed for `RENEW_DEADLINE` seconds.
        """
        if asyncio.get_running_loop().time() - self._renewed >= RENEW_DEADLINE:
            raise LeaseLost(f"the Lease was not renewed for {RENEW_DEADLINE:.0f} s")

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        logged = ""
        while True:
            began = asyncio.get_running_loop().time()  # The other replicas count from the write, which comes later.
            holder = await self._claim()
            if holder is None:
                self._renewed = began
                LEADER.set(1)
                _log.info("leading as %s", self._identity)
                return
            if holder != logged:
                _log.info("standing by: %s leads", holder)
                logged = holder
            await asyncio.sleep(RETRY)

    async def keep(self) -> None:
        """Renew the Lease until cancelled.

        Raises:
            LeaseLost: the Lease could not be renewed in time, or another replica holds it.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RETRY)
            began = loop.time()
            try:
                async with asyncio.timeout_at(self._renewed + RENEW_DEADLINE):
                    holder = await self._claim()
            except TimeoutError:
                holder = _UNKNOWN
            if holder is None:
                self._renewed = began
            elif holder or loop.time() - self._renewed >= RENEW_DEADLINE:
                self._renewed = -math.inf
                LEADER.set(0)
                raise LeaseLost(f"{holder} leads now" if holder else
                                f"the Lease could not be renewed for {RENEW_DEADLINE:.0f} s")

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait until it expires."""
        LEADER.set(0)
        self._renewed = -math.inf
        try:
            lease = await self._client.request("GET", object_path(self._reference))
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.request("PUT", object_path(self._reference), lease)
        except (ApiError, ClientError, OSError):
            _log.warning("the Lease could not be released; it expires in %d s", DURATION)

    async def _claim(self) -> str | None:
        """Acquire or renew the Lease; the holder if it is another replica or unknown, otherwise None."""
        try:
            lease = await self._client.request("GET", object_path(self._reference))
        except ApiError as error:
            if not error.is_missing:
                _log.warning("the Lease cannot be read: %s", error)
                return _UNKNOWN
            return await self._write("POST", {**self._reference, "spec": self._spec(0)})
        except (ClientError, OSError, TimeoutError) as error:
            _log.warning("the Lease cannot be read: %s", error or type(error).__name__)
            return _UNKNOWN
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and self._is_renewed(lease):
            return str(holder)
        changes = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        lease["spec"] = self._spec(changes, spec.get("acquireTime") if holder == self._identity else None)
        return await self._write("PUT", lease)

    def _is_renewed(self, lease: dict[str, Any]) -> bool:
        """Whether another replica has renewed its Lease within the Lease's duration, by this replica's clock."""
        now, version = asyncio.get_running_loop().time(), lease["metadata"]["resourceVersion"]
        if self._other_version is None or self._other_version[0] != version:
            self._other_version = (version, now)
        return now - self._other_version[1] < float(lease["spec"].get("leaseDurationSeconds") or DURATION)

    async def _write(self, method: str, lease: dict[str, Any]) -> str | None:
        path = collection_path(self._reference) if method == "POST" else object_path(self._reference)
        try:
            await self._client.request(method, path, lease)
        except (ApiError, ClientError, OSError, TimeoutError) as error:
            _log.debug("the Lease could not be written: %s", error)
            return _UNKNOWN
        return None

    def _spec(self, changes: int, acquired: str | None = None) -> dict[str, Any]:
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now,
                "acquireTime": acquired or now, "leaseTransitions": changes}
