"""Apply, second part: the status of an experiment and its Events."""

from __future__ import annotations

import logging

from finetune_api.definition.fitting_status import fitting_experiment_status

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.decoding import RawObject, usable
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.status_document import repaired
from finetune_operator.cluster.reconcile.writes import replace_status, write_event
from finetune_operator.decide.experiment.plan import ExperimentDecision
from finetune_operator.errors import ApiError
from finetune_operator.observed.experiment import ExperimentView
from finetune_operator.telemetry.metrics import STATUS_REFUSALS

_log = logging.getLogger(__name__)


class ExperimentStatusWriter:
    """Writes the status of experiments, and the Events about them."""

    def __init__(self, cache: Cache, client: Client, runtime: Runtime) -> None:
        self._cache, self._client, self._runtime = cache, client, runtime

    async def write(self, view: ExperimentView, decided: ExperimentDecision) -> None:
        """Write a decided status and then its Events, if the status differs from the stored one.

        The experiment's resource version is a precondition: after a 409 the next pass plans with the new state.

        Raises:
            ApiError: the apiserver refused the status.
            LeaseLost: this replica may not act any more.
        """
        if decided.status == view.status:
            return
        status = fitting_experiment_status(decided.status.model_dump(mode="json", exclude_none=True))
        stored = self._cache.experiments.stored_status((view.namespace, view.name))
        if status == stored:
            return
        try:
            await self._replace(view, status)
        except ApiError as error:
            if error.is_missing:
                return  # Somebody deleted the experiment.
            if error.refuses_content:
                STATUS_REFUSALS.inc()
                accepted = repaired(status, stored, error.fields, str(error))
                if accepted != stored:
                    await self._replace(view, accepted)
            raise
        for record in decided.events:
            await write_event(self._client, view, record, self._runtime.clock())
        _log.log(logging.INFO if decided.events else logging.DEBUG, "%s/%s: experiment: %s", view.namespace, view.name,
                 decided.events[0].message if decided.events else decided.status.phase)

    async def _replace(self, view: ExperimentView, status: RawObject) -> None:
        self._runtime.check_lease()
        if (stored := usable(await replace_status(self._client, view, status))) is not None:
            self._cache.record(stored)
