"""One leader among replicas, by a Lease of coordination.k8s.io/v1 (as client-go's leader election keeps it).

A holder renews well before its Lease runs out, and stops acting when it could not: the others take over only after
`DURATION` seconds in which they, by their own clock, saw no renewal. No clocks are compared between machines.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from aiohttp import ClientError

from finetune_operator.cluster.client import Client, object_path
from finetune_operator.errors import ApiError, LeaseLost
from finetune_operator.telemetry.metrics import LEADER

DURATION = 15.0
RENEW_DEADLINE = 10.0
RETRY = 2.0
_log = logging.getLogger(__name__)


class Lease:
    """A claim to lead."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str, clock: Callable[[], datetime]) -> None:
        self._client, self._identity, self._clock = client, identity, clock
        self._named = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                       "metadata": {"namespace": namespace, "name": name}}
        self._seen: tuple[str, float] | None = None
        self._renewed = -math.inf

    def check(self) -> None:
        """Whether this replica may act now. Asked before each action: a loop that stood still did not notice the time.

        Raises:
            LeaseLost: it could not renew for `RENEW_DEADLINE` seconds.
        """
        if asyncio.get_running_loop().time() - self._renewed >= RENEW_DEADLINE:
            raise LeaseLost(f"the Lease was not renewed for {RENEW_DEADLINE:.0f} s")

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        told = ""
        while True:
            began = asyncio.get_running_loop().time()  # The others count from the write, which comes later than this.
            holder = await self._try()
            if holder is None:
                self._renewed = began
                LEADER.set(1)
                _log.info("leading as %s", self._identity)
                return
            if holder != told:
                _log.info("standing by: %s leads", holder)
                told = holder
            await asyncio.sleep(RETRY)

    async def keep(self) -> None:
        """Renew until cancelled.

        Raises:
            LeaseLost: it could not be renewed in time, or another replica has it.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RETRY)
            began = loop.time()
            try:
                async with asyncio.timeout_at(self._renewed + RENEW_DEADLINE):
                    holder = await self._try()
            except TimeoutError:
                holder = ""
            if holder is None:
                self._renewed = began
            elif holder or loop.time() - self._renewed >= RENEW_DEADLINE:
                self._renewed = -math.inf
                LEADER.set(0)
                raise LeaseLost(f"{holder or 'nobody that can be seen'} leads now")

    async def release(self) -> None:
        """Let go, so that another replica needs not wait."""
        LEADER.set(0)
        self._renewed = -math.inf
        try:
            lease = await self._client.request("GET", object_path(self._named))
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.request("PUT", object_path(self._named), lease)
        except (ApiError, ClientError, OSError):
            _log.warning("the Lease could not be released; it runs out in %d s", DURATION)

    async def _try(self) -> str | None:
        """None where this replica holds the Lease now; else who does, or an empty string where that can't be told."""
        try:
            lease = await self._client.request("GET", object_path(self._named))
        except ApiError as error:
            if not error.is_missing:
                _log.warning("the Lease can't be read: %s", error)
                return ""
            return await self._write("POST", {**self._named, "spec": self._spec(0)})
        except (ClientError, OSError, TimeoutError) as error:
            _log.warning("the Lease can't be read: %s", error or type(error).__name__)
            return ""
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        now = asyncio.get_running_loop().time()
        if holder not in ("", self._identity):
            version = lease["metadata"]["resourceVersion"]
            if self._seen is None or self._seen[0] != version:
                self._seen = (version, now)
            if now - self._seen[1] < float(spec.get("leaseDurationSeconds") or DURATION):
                return str(holder)
        changes = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        lease["spec"] = self._spec(changes, spec.get("acquireTime") if holder == self._identity else None)
        return await self._write("PUT", lease)

    async def _write(self, method: str, lease: dict[str, Any]) -> str | None:
        path = object_path(self._named)
        try:
            await self._client.request(method, path.rpartition("/")[0] if method == "POST" else path, lease)
        except (ApiError, ClientError, OSError, TimeoutError) as error:
            _log.debug("the Lease could not be written: %s", error)
            return ""
        return None

    def _spec(self, changes: int, acquired: str | None = None) -> dict[str, Any]:
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now,
                "acquireTime": acquired or now, "leaseTransitions": changes}
