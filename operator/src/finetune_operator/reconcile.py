"""From a key to done: observe, plan, apply. Any pass can be killed at any point and run again with the same result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from aiohttp import ClientError
from finetune_api.base import GROUP, VERSION
from finetune_api.spec.job import KIND
from finetune_api.status import FineTuneJobStatus

from finetune_operator import manifests
from finetune_operator.actions import Action, Apply, Create, Delete, Plan
from finetune_operator.cache import Cache, Key
from finetune_operator.check_turns import reason_of
from finetune_operator.client import AUTHORIZATION, ApiError, Client, list_path, object_path
from finetune_operator.faults import reach
from finetune_operator.frozen import earlier_run
from finetune_operator.metrics import PASS_SECONDS, PASSES, QUEUED, WAIT_SECONDS
from finetune_operator.names import UID_LABEL
from finetune_operator.plan import plan, refused
from finetune_operator.pod_events import with_words
from finetune_operator.preflighting import claims_to_ask_for
from finetune_operator.queue import WorkQueue
from finetune_operator.settings import Settings
from finetune_operator.views import JobView

CONFLICT = 409
REFUSED = (400, 403, 413, 422)
"""What another try alone does not mend: a quota, an admission rule, an object that the apiserver does not take."""

NOT_FOUND = 404
_log = logging.getLogger(__name__)


class NameTaken(Exception):
    """A child's name belongs to an object of somebody else."""


class NotTaken(Exception):
    """What a job needs is not taken, for a cause in its namespace that its condition tells."""


class Reconciler:
    """Works on keys: one pass at a time for each job."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key], client: Client, settings: Settings,
                 clock: Callable[[], datetime]) -> None:
        self._cache, self._queue, self._client = cache, queue, client
        self._settings, self._clock = settings, clock

    async def work(self) -> None:
        """Take keys until cancelled."""
        while True:
            key, waited = await self._queue.take()
            QUEUED.set(len(self._queue))
            WAIT_SECONDS.observe(waited)
            failed = True
            try:
                with PASS_SECONDS.time():
                    await self.reconcile(key)
                failed = False
                PASSES.labels("ok").inc()
            except ApiError as error:
                PASSES.labels("conflict" if error.status == CONFLICT else "error").inc()
                _log.log(logging.DEBUG if error.status == CONFLICT else logging.WARNING,
                         "%s/%s: %s; trying again", *key, error, extra=_about(key))
            except NotTaken as error:
                PASSES.labels("refused").inc()
                _log.warning("%s/%s: %s; trying again", *key, error, extra=_about(key))
            except (ClientError, OSError, TimeoutError) as error:
                PASSES.labels("error").inc()
                _log.warning("%s/%s: %s; trying again", *key, error or type(error).__name__, extra=_about(key))
            except Exception:
                PASSES.labels("error").inc()
                _log.exception("%s/%s: a pass failed; trying again", *key, extra=_about(key))
            finally:
                self._queue.done(key, failed)
                for waiting in self._cache.next_checks(key):
                    self._queue.add(waiting)

    async def reconcile(self, key: Key) -> None:
        """One pass over one job.

        Raises:
            ApiError: the apiserver refused something (409: what was planned with is out of date).
            NotTaken: a quota, a policy or somebody else's object stands in the way.
        """
        seen = self._cache.observe(key)
        if seen is None:
            self._queue.forget(key)
            return
        seen = await with_words(seen, self._client.events, self._clock())
        decided = plan(seen, self._settings, self._clock())
        if decided.needs_earlier_run:
            seen = replace(seen, earlier_run=await self._earlier_run(seen.job))
            decided = plan(seen, self._settings, self._clock())
        if asked := claims_to_ask_for(seen, decided, self._settings):
            bound = await self._bound(seen.job.namespace, asked)
            seen = replace(seen, bound_claims=bound, checks=self._cache.turns.beside(key))
            decided = plan(seen, self._settings, self._clock())
        self._cache.turns.note(key, reason_of(decided.status))  # Before anybody else decides.
        try:
            for action in decided.actions:
                await self._act(seen.job, action)
        except (ApiError, NameTaken) as error:
            if isinstance(error, NameTaken) or error.status in REFUSED:
                await self._write_status(seen.job, refused(seen.job, decided, str(error), self._clock()))
                if isinstance(error, NameTaken) or error.refused_by != AUTHORIZATION:
                    raise NotTaken(str(error)) from error
            raise
        await self._write_status(seen.job, decided)
        if decided.requeue_after is not None:
            self._queue.add_after(key, decided.requeue_after.total_seconds())

    async def _earlier_run(self, job: JobView) -> manifests.Object:
        """What an earlier attempt got. Attempts are few: the cache, which has every ConfigMap, need not hold it."""
        maps: list[manifests.Object] = []
        await self._client.list_into(list_path("v1", "ConfigMap", job.namespace), f"{UID_LABEL}={job.uid}", maps.append)
        return earlier_run(job, maps)

    async def _bound(self, namespace: str, claims: Iterable[str]) -> frozenset[str]:
        """Those of some claims that have a volume. One that can't be read counts as one that has none."""
        bound = set()
        for name in claims:
            path = object_path({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                                "metadata": {"namespace": namespace, "name": name}})
            with suppress(ApiError):
                if (await self._client.request("GET", path)).get("status", {}).get("phase") == "Bound":
                    bound.add(name)
        return frozenset(bound)

    async def _act(self, job: JobView, action: Action) -> None:
        if isinstance(action, Create):
            await self._create(job, action.manifest)
        elif isinstance(action, Apply):
            self._cache.note(await self._client.apply(action.manifest))
        elif isinstance(action, Delete):
            await self._client.delete(action.api_version, action.kind, job.namespace, action.name)

    async def _create(self, job: JobView, manifest: manifests.Object) -> None:
        try:
            self._cache.note(await self._client.create(manifest))
            if manifest["kind"] == "Job":
                reach("created")
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            there = await self._client.request("GET", object_path(manifest))
            owners = {owner["uid"] for owner in there["metadata"].get("ownerReferences", ())}
            if job.uid not in owners:
                name = manifest["metadata"]["name"]
                raise NameTaken(f"the {manifest['kind']} {name} belongs to another owner; waiting until it is gone"
                                ) from None
            self._cache.note({**there, "kind": manifest["kind"]})

    async def _write_status(self, job: JobView, decided: Plan) -> None:
        """Write the status where nothing has changed since it was planned (a 409 plans again), then the events."""
        if decided.status == job.status:
            return
        body = {
            "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND,
            "metadata": {"namespace": job.namespace, "name": job.name, "uid": job.uid,
                         "resourceVersion": job.resource_version},
            "status": dump_status(decided.status),
        }
        starts = job.status.start_time is None and decided.status.start_time is not None
        if starts:
            reach("start")
        if decided.status.completion_time is not None:
            reach("final")
        try:
            changed = self._cache.note(await self._client.replace_status(body)) is not None
        except ApiError as error:
            if error.status == NOT_FOUND:
                return  # Deleted meanwhile.
            raise
        if starts:
            reach("started")
        if changed:  # The answer may reach the cache before the watch does: look again with it.
            self._queue.add((job.namespace, job.name))
        for note in decided.events:
            body = manifests.event(job, note.kind, note.reason, note.message, note.key, self._clock())
            try:
                await self._client.create(body)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    _log.warning("%s/%s: the event %s could not be written: %s", job.namespace, job.name, note.reason,
                                 error, extra=_about((job.namespace, job.name), decided.status))
        _log.log(logging.INFO if decided.events else logging.DEBUG, "%s/%s: %s", job.namespace, job.name,
                 _summary(decided.status), extra=_about((job.namespace, job.name), decided.status))


def dump_status(status: FineTuneJobStatus) -> manifests.Object:
    """A status as the apiserver takes it."""
    dumped: manifests.Object = status.model_dump(mode="json", exclude_none=True)
    return dumped


def _summary(status: FineTuneJobStatus) -> str:
    telling = next((one for one in status.conditions if one.type == "Progressing"), None)
    return f"{status.phase}: {telling.reason}: {telling.message}" if telling else str(status.phase)


def _about(key: Key, status: FineTuneJobStatus | None = None) -> dict[str, object]:
    attempt = status.attempts[-1].number if status and status.attempts else None
    return {"job": f"{key[0]}/{key[1]}", "attempt": attempt}


async def work_together(reconciler: Reconciler, workers: int) -> None:
    """Run workers until one fails or all are cancelled."""
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(reconciler.work())
