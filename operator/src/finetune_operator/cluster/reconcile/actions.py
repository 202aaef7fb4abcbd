"""Apply, first part: the actions of a plan."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.paths import object_path
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.reconcile.runtime import Runtime
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
        """Create an object. An object of this name that already belongs to the job is no error."""
        try:
            self._cache.record(await self._client.create(manifest))
            if manifest["kind"] == "Job":
                self._runtime.fault_hook(Moment.CREATED)
        except ApiError as error:
            if not error.already_exists:
                raise
            existing = await self._client.request("GET", object_path(manifest))
            owners = {owner["uid"] for owner in existing["metadata"].get("ownerReferences", ())}
            if job.uid not in owners:
                kind, name = manifest["kind"], manifest["metadata"]["name"]
                raise NameTaken(f"the {kind} {name} belongs to another owner; waiting until it is gone") from None
            self._cache.record({**existing, "kind": manifest["kind"]})
