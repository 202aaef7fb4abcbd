"""From a key to done: observe, plan, apply. Any pass can be killed at any point and run again with the same result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from aiohttp import ClientError
from finetune_api.base import GROUP, VERSION
from finetune_api.spec.job import KIND
from finetune_api.status import FineTuneJobStatus

from finetune_operator.cluster.cache import Cache, Key
from finetune_operator.cluster.client import Client, list_path, object_path
from finetune_operator.cluster.decoding import readable
from finetune_operator.cluster.pod_events import EventReader, with_words
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.status_writer import dump_status, mended
from finetune_operator.decide import failing
from finetune_operator.decide.actions import Action, Apply, Create, Delete, Plan
from finetune_operator.decide.check_turns import reason_of
from finetune_operator.decide.conditions import Note
from finetune_operator.decide.plan import plan, refused
from finetune_operator.decide.preflight import claims_to_ask_for
from finetune_operator.errors import ApiError, ChildRefused, DecisionFailed, NameTaken, TerminalError
from finetune_operator.faults import reach
from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.event import event
from finetune_operator.manifests.run_config import earlier_run
from finetune_operator.names import UID_LABEL
from finetune_operator.observed.objects import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings
from finetune_operator.telemetry.metrics import PASS_SECONDS, PASSES, QUEUED, STATUS_REFUSALS, WAIT_SECONDS

_SHOWN = 1000
_log = logging.getLogger(__name__)


class Reconciler:
    """Works on keys: one pass at a time for each job."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key], client: Client, settings: Settings,
                 clock: Callable[[], datetime], check_lease: Callable[[], None] = lambda: None) -> None:
        """Set up.

        Args:
            cache: what is known.
            queue: the keys to work on.
            client: of the apiserver.
            settings: the administrator's.
            clock: the time, in UTC.
            check_lease: raises LeaseLost where this replica may not act.
        """
        self._cache, self._queue, self._client = cache, queue, client
        self._settings, self._clock, self._check_lease = settings, clock, check_lease
        self._events = EventReader(client)

    async def work(self) -> None:
        """Take keys until cancelled."""
        while True:
            key, waited = await self._queue.take()
            # Neither a queue that has keys nor a pass without news waits for anything: others come in between.
            await asyncio.sleep(0)
            QUEUED.set(len(self._queue))
            WAIT_SECONDS.observe(waited)
            failed = True
            try:
                with PASS_SECONDS.time():
                    await self.reconcile(key)
                failed = False
                PASSES.labels("ok").inc()
            except ApiError as error:
                PASSES.labels("conflict" if error.is_conflict else "error").inc()
                _log.log(logging.DEBUG if error.is_conflict else logging.WARNING,
                         "%s/%s: %s; trying again", *key, error, extra=_about(key))
            except ChildRefused as error:
                PASSES.labels("refused").inc()
                _log.warning("%s/%s: %s; trying again", *key, error, extra=_about(key))
            except (ClientError, OSError, TimeoutError) as error:
                PASSES.labels("error").inc()
                _log.warning("%s/%s: %s; trying again", *key, error or type(error).__name__, extra=_about(key))
            except TerminalError:
                raise
            except Exception:
                PASSES.labels("error").inc()
                _log.exception("%s/%s: a pass failed; trying again", *key, extra=_about(key))
            finally:
                self._queue.done(key, failed)
                for waiting in self._cache.next_checks(key):
                    self._queue.add(waiting)

    async def reconcile(self, key: Key) -> None:
        """One pass over one job. Whatever happens, it ends in a sentence of the job's conditions.

        Raises:
            ApiError: the apiserver refused something (409: what was planned with is out of date).
            ChildRefused: a quota, a policy or somebody else's object stands in the way.
            DecisionFailed: it could not be decided about the job.
            LeaseLost: this replica may not act any more.
        """
        job = self._cache.view(key)
        if job is None:
            self._queue.forget(key)
            return
        seen, fault = Observation(job), None
        try:
            seen = self._cache.around(job)
            seen, decided = await self._decide(seen)
            # Before anybody else decides.
            self._cache.turns.note(key, None if job.deleting else reason_of(decided.status))
        except ApiError as error:
            await self._tell_refusals(job, Plan(job.status), [error])
        except (ClientError, OSError):
            raise
        except Exception as error:
            fault = error
            decided = failing.told(seen, self._settings, self._clock(), error)
        refusals = await self._act_all(seen.job, decided)
        if refusals:
            await self._tell_refusals(seen.job, decided, refusals)
        await self._write_status(seen.job, decided)
        if fault is not None:
            raise DecisionFailed(str(fault)) from fault
        if decided.requeue_after is not None:
            self._queue.add_after(key, decided.requeue_after.total_seconds())

    async def _decide(self, seen: Observation) -> tuple[Observation, Plan]:
        seen = await with_words(seen, self._events, self._clock())
        decided = plan(seen, self._settings, self._clock())
        if decided.needs_earlier_run:
            seen = replace(seen, earlier_run=await self._earlier_run(seen.job))
            decided = plan(seen, self._settings, self._clock())
        if asked := claims_to_ask_for(seen, decided, self._settings):
            bound = await self._bound(seen.job.namespace, asked)
            turns = self._cache.turns.beside((seen.job.namespace, seen.job.name))
            seen = replace(seen, bound_claims=bound, checks=turns)
            decided = plan(seen, self._settings, self._clock())
        return seen, decided

    async def _act_all(self, job: JobView, decided: Plan) -> list[ApiError | NameTaken]:
        """Carry out the actions, deletions first; what was refused.

        A refusal holds up nothing but objects that were to be made after it: they may need what is not there.
        """
        refusals: list[ApiError | NameTaken] = []
        lacking = False
        for action in sorted(decided.actions, key=lambda one: not isinstance(one, Delete)):
            if lacking and isinstance(action, Create):
                continue
            self._check_lease()
            try:
                await self._act(job, action)
            except (ApiError, NameTaken) as error:
                refusals.append(error)
                lacking = lacking or not isinstance(action, Delete)
        return refusals

    async def _tell_refusals(self, job: JobView, decided: Plan, refusals: list[ApiError | NameTaken]) -> NoReturn:
        """Tell in the status what was refused, and fail."""
        told = [one for one in refusals if _is_told(one)]
        if told:
            words = "; ".join(dict.fromkeys(map(str, told)))
            await self._write_status(job, refused(job, decided, words, self._clock()))
        first = told[0] if told else refusals[0]
        if isinstance(first, NameTaken) or first.is_of_namespace:
            raise ChildRefused(str(first)) from first
        raise first

    async def _earlier_run(self, job: JobView) -> Manifest:
        """What an earlier attempt got. Attempts are few: the cache, which has every ConfigMap, need not hold it."""
        maps: list[Manifest] = []
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

    async def _create(self, job: JobView, manifest: Manifest) -> None:
        try:
            self._cache.note(await self._client.create(manifest))
            if manifest["kind"] == "Job":
                reach("created")
        except ApiError as error:
            if not error.already_exists:
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
        status = dump_status(decided.status)
        if status == self._cache.stored_status((job.namespace, job.name)):
            return
        starts = job.status.start_time is None and decided.status.start_time is not None
        if starts:
            reach("start")
        if decided.status.completion_time is not None:
            reach("final")
        try:
            await self._replace_status(job, status)
        except ApiError as error:
            if error.is_missing:
                return  # Deleted meanwhile.
            if error.refuses_content:
                await self._mend_status(job, status, error)
            raise
        if starts:
            reach("started")
        for note in decided.events:
            await self._write_event(job, note)
        _log.log(logging.INFO if decided.events else logging.DEBUG, "%s/%s: %s", job.namespace, job.name,
                 _summary(decided.status), extra=_about((job.namespace, job.name), decided.status))

    async def _replace_status(self, job: JobView, status: Manifest) -> None:
        self._check_lease()
        answer = await self._client.replace_status({
            "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "status": status,
            "metadata": {"namespace": job.namespace, "name": job.name, "uid": job.uid,
                         "resourceVersion": job.resource_version}})
        short = readable(answer)
        if short is not None and self._cache.note(short) is not None:
            # The answer may reach the cache before the watch does: look again with it.
            self._queue.add((job.namespace, job.name))

    async def _mend_status(self, job: JobView, status: Manifest, error: ApiError) -> None:
        """Tell that a status was refused, and write what can be written of it."""
        STATUS_REFUSALS.inc()
        key = job.namespace, job.name
        _log.warning("%s/%s: the status is refused: %s", *key, error, extra=_about(key))
        words = str(error)[:_SHOWN]
        stored = self._cache.stored_status(key)
        written = mended(status, stored, error.fields, words)
        # First the event: what is left may be refused too.
        await self._write_event(job, Note("Warning", "StatusRefused", words, str(job.generation)))
        if written != stored:
            await self._replace_status(job, written)

    async def _write_event(self, job: JobView, note: Note) -> None:
        key = job.namespace, job.name
        body = event(job, note.kind, note.reason, note.message, note.key, self._clock())
        try:
            await self._client.create(body)
        except ApiError as error:
            if not error.already_exists:
                _log.warning("%s/%s: the event %s could not be written: %s", *key, note.reason, error,
                             extra=_about(key))


def _is_told(error: ApiError | NameTaken) -> bool:
    """Whether a refusal is told in the conditions: all but the one that the next pass plans around."""
    return isinstance(error, NameTaken) or not error.is_conflict


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
