"""One pass over one experiment. A pass can be killed at any point and run again with the same result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.status import ExperimentReason
from finetune_api.job import KIND
from finetune_api.reading.loading import InvalidJob
from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.decoding import usable
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.experiments.status_writer import ExperimentStatusWriter
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.writes import create_owned, raise_first
from finetune_operator.decide.actions import Apply, Create
from finetune_operator.decide.experiment.actions import OwnedAction, PatchOwned
from finetune_operator.decide.experiment.plan import ExperimentDecision, plan_experiment, report_problem
from finetune_operator.errors import ApiError, DecisionFailed, NameTaken
from finetune_operator.faults import Moment
from finetune_operator.manifests.child import Manifest
from finetune_operator.observed.experiment import ExperimentObservation, ExperimentView, read_experiment
from finetune_operator.settings import Settings

_SHOWN_CHARACTERS = 300
_MOST_REFUSALS = 3
"""Refusals after which a pass tries no further job: a quota refuses them all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Queues:
    """Where experiments and jobs are added that need a pass."""

    experiments: WorkQueue[Key]
    jobs: WorkQueue[Key]


class ExperimentReconciler:
    """Makes passes over experiments, one at a time."""

    def __init__(self, cache: Cache, queues: Queues, client: Client, settings: Settings, runtime: Runtime) -> None:
        """Set up.

        Args:
            cache: the state of all objects.
            queues: of experiments and of jobs.
            client: of the apiserver.
            settings: the administrator's.
            runtime: clock, lease check and fault hook.
        """
        self._cache, self._queues, self._client, self._settings = cache, queues, client, settings
        self._runtime = runtime
        self._status = ExperimentStatusWriter(cache, client, runtime)
        self._read: dict[Key, tuple[tuple[str, int], Experiment | InvalidJob]] = {}

    async def reconcile(self, key: Key) -> None:
        """Make one pass over one experiment. Whatever happens, its conditions say it.

        Raises:
            ApiError: the apiserver refused something (409: the plan rests on an old state).
            ChildRefused: a quota, a policy or another owner's object stands in the way of a job.
            DecisionFailed: the plan could not be made.
            LeaseLost: this replica may not act any more.
            aiohttp.ClientError, OSError: the apiserver cannot be reached.
        """
        view = self._cache.experiments.view(key)
        if view is None:
            self._read.pop(key, None)
            self._queues.experiments.forget(key)
            return
        try:
            experiments = self._cache.experiments
            observation = ExperimentObservation(view, self._experiment(key, view), experiments.jobs_of(view),
                                                experiments.reports_of(view))
            decided = plan_experiment(observation, self._settings, self._runtime.clock())
        except Exception as error:
            message = (f"the operator cannot decide about this experiment ({type(error).__name__}: "
                       f"{str(error)[:_SHOWN_CHARACTERS]}). It tries again at least every minute, and running jobs go "
                       "on, each within its own budget. Report this error with the operator's log")
            await self._status.write(view, report_problem(view, view.status, ExperimentReason.INTERNAL_ERROR, message,
                                                          self._runtime.clock()))
            raise DecisionFailed(str(error)) from error
        await self._apply(view, decided)
        if decided.requeue_after is not None:
            self._queues.experiments.add_after(key, decided.requeue_after.total_seconds())

    def _experiment(self, key: Key, view: ExperimentView) -> Experiment | InvalidJob:
        """The experiment with its jobs, which are made once for each generation of the spec."""
        version = view.uid, view.generation
        if self._read.get(key, (None,))[0] != version:
            self._read[key] = version, read_experiment(view)
        return self._read[key][1]

    async def _apply(self, view: ExperimentView, decided: ExperimentDecision) -> None:
        refusals: list[ApiError | NameTaken] = []
        for action in decided.actions:
            # What lowers a limit comes first: without it nothing that costs money is started. A new job is held.
            if len(refusals) >= _MOST_REFUSALS or (refusals and isinstance(action, PatchOwned)):
                continue
            self._runtime.check_lease()
            try:
                await self._run(view, action)
            except (ApiError, NameTaken) as error:
                refusals.append(error)
        # Conflicts are not reported: the plan rests on an old state.
        reported = [one for one in refusals if isinstance(one, NameTaken) or not (one.is_conflict or one.is_missing)]
        if refusals and not reported:
            raise_first(reported, refusals)
        await self._status.write(view, self._with_refusals(view, decided, reported) if reported else decided)
        # Also after a refusal: a job that nobody needs costs money, and may take the place of the one that is refused.
        for deletion in decided.deletions:
            self._runtime.check_lease()
            await self._client.delete(deletion.api_version, deletion.kind, view.namespace, deletion.name)
        if refusals:
            raise_first(reported, refusals)

    async def _run(self, view: ExperimentView, action: OwnedAction) -> None:
        if isinstance(action, Create):
            await self._create(view, action.manifest)
            return
        if isinstance(action, Apply):
            self._record(await self._client.apply(action.manifest))
            return
        job = action.job
        metadata = {**action.patch.get("metadata", {}), "namespace": job.namespace, "name": job.name, "uid": job.uid}
        body = {**action.patch, "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": metadata}
        self._record(await self._client.merge(body))
        self._runtime.fault_hook(Moment.CHANGED)

    async def _create(self, view: ExperimentView, manifest: Manifest) -> None:
        answer, is_new = await create_owned(
            self._client, view.uid, manifest, f"a {manifest['kind']} {manifest['metadata']['name']} exists that does "
            "not belong to this experiment. Delete it, or give the experiment or the variant another name")
        self._record(answer)
        if is_new:
            self._runtime.fault_hook(Moment.CREATED)

    def _record(self, answer: Manifest) -> None:
        """Record a job that a write answered. The watch delivers it again, but then it is no news."""
        if (stored := usable(answer)) is not None and (key := self._cache.record(stored)) is not None:
            self._queues.jobs.add(key)

    def _with_refusals(self, view: ExperimentView, decided: ExperimentDecision, refusals: Sequence[ApiError | NameTaken]
                       ) -> ExperimentDecision:
        """The decision with the refusals in its conditions."""
        message = "; ".join(dict.fromkeys(map(str, refusals)))
        return report_problem(view, decided.status, ExperimentReason.CANNOT_START,
                              f"the apiserver refuses what the experiment needs: {message}", self._runtime.clock())
