"""Apply, second part: the status of a plan and its Events."""

from __future__ import annotations

import logging

from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.decoding import usable
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.log_fields import log_fields
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.status_document import StatusDocument, dump_status, repaired
from finetune_operator.cluster.reconcile.writes import replace_status, write_event
from finetune_operator.decide.actions import Plan
from finetune_operator.decide.conditions import EventRecord, progressing_condition
from finetune_operator.errors import ApiError
from finetune_operator.faults import Moment
from finetune_operator.observed.job import JobView
from finetune_operator.telemetry.metrics import STATUS_REFUSALS

_LONGEST_REFUSAL = 1000
"""Characters of a refusal that an Event and a condition quote."""

_log = logging.getLogger(__name__)


class StatusWriter:
    """Writes the status of jobs, and the Events about them."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key], client: Client, runtime: Runtime) -> None:
        self._cache, self._queue, self._client, self._runtime = cache, queue, client, runtime

    async def write(self, job: JobView, decided: Plan) -> None:
        """Write a plan's status and then its Events, if the status differs from the stored one.

        The job's resource version is a precondition: after a 409 the next pass plans with the new state.

        Raises:
            ApiError: the apiserver refused the status.
            LeaseLost: this replica may not act any more.
        """
        if decided.status == job.status:
            return
        status = dump_status(decided.status)
        if status == self._cache.stored_status((job.namespace, job.name)):
            return
        starts = job.status.start_time is None and decided.status.start_time is not None
        if starts:
            self._runtime.fault_hook(Moment.START)
        if decided.status.completion_time is not None:
            self._runtime.fault_hook(Moment.FINAL)
        try:
            await self._replace(job, status)
        except ApiError as error:
            if error.is_missing:
                return  # Somebody deleted the job.
            if error.refuses_content:
                await self._write_repaired(job, status, error)
            raise
        if starts:
            self._runtime.fault_hook(Moment.STARTED)
        for record in decided.events:
            await self._write_event(job, record)
        key = job.namespace, job.name
        _log.log(logging.INFO if decided.events else logging.DEBUG, "%s/%s: %s", *key, _summary(decided.status),
                 extra=log_fields(key, decided.status))

    async def _replace(self, job: JobView, status: StatusDocument) -> None:
        self._runtime.check_lease()
        stored = usable(await replace_status(self._client, job, status))
        if stored is not None and self._cache.record(stored) is not None:
            # The answer may reach the cache before the watch does: plan again with it.
            self._queue.add((job.namespace, job.name))

    async def _write_repaired(self, job: JobView, status: StatusDocument, error: ApiError) -> None:
        """Report a refused status, and write the part of it that the apiserver accepts."""
        STATUS_REFUSALS.inc()
        key = job.namespace, job.name
        _log.warning("%s/%s: the apiserver refused the status: %s", *key, error, extra=log_fields(key))
        message = str(error)[:_LONGEST_REFUSAL]
        stored = self._cache.stored_status(key)
        accepted = repaired(status, stored, error.fields, message)
        # The Event first: the apiserver may refuse the rest of the status too.
        await self._write_event(job, EventRecord("Warning", Reason.STATUS_REFUSED, message, str(job.generation)))
        if accepted != stored:
            await self._replace(job, accepted)

    async def _write_event(self, job: JobView, record: EventRecord) -> None:
        await write_event(self._client, job, record, self._runtime.clock(), log_fields((job.namespace, job.name)))


def _summary(status: FineTuneJobStatus) -> str:
    condition = progressing_condition(status)
    return f"{status.phase}: {condition.reason}: {condition.message}" if condition else str(status.phase)
