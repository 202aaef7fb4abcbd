"""Apply, first part: the actions of a plan."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.writes import create_owned
from finetune_operator.decide.actions import Action, Apply, Create, Delete
from finetune_operator.errors import ApiError, NameTaken
from finetune_operator.faults import Moment
from finetune_operator.manifests.child import Manifest
from finetune_operator.observed.job import JobView


class ActionRunner:
    """Creates, applies and deletes the children of jobs."""

    def __init__(self, cache: Cache, client: Client, runtime: Runtime) -> None:
        self._cache, self._client, self._runtime = cache, client, runtime

    async def run(self, job: JobView, actions: Iterable[Action]) -> list[ApiError | NameTaken]:
        """Carry out actions, deletions first.

        After a refusal only creations are skipped: they may need what is missing.

        Returns:
            The refusals.

        Raises:
            LeaseLost: this replica may not act any more.
        """
        refusals: list[ApiError | NameTaken] = []
        incomplete = False
        for action in sorted(actions, key=lambda one: not isinstance(one, Delete)):
            if incomplete and isinstance(action, Create):
                continue
            self._runtime.check_lease()
            try:
                await self._run_one(job, action)
            except (ApiError, NameTaken) as error:
                refusals.append(error)
                incomplete = incomplete or not isinstance(action, Delete)
        return refusals

    async def _run_one(self, job: JobView, action: Action) -> None:
        if isinstance(action, Create):
            await self._create(job, action.manifest)
        elif isinstance(action, Apply):
            self._cache.record(await self._client.apply(action.manifest))
        else:
            await self._client.delete(action.api_version, action.kind, job.namespace, action.name)

    async def _create(self, job: JobView, manifest: Manifest) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        answer, is_new = await create_owned(
            self._client, job.uid, manifest, f"the {kind} {name} belongs to another owner; waiting until it is gone")
        self._cache.record(answer)
        if is_new and kind == "Job":
            self._runtime.fault_hook(Moment.CREATED)
