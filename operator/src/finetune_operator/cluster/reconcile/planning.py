"""Observe and plan: the decision about a job, with what it needs to read beside the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.paths import list_path
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.reconcile.pod_events import EventReader, with_event_messages
from finetune_operator.decide.actions import Plan
from finetune_operator.decide.plan import plan
from finetune_operator.decide.preflight.plan import claims_to_look_up
from finetune_operator.errors import ApiError
from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.run_config import earlier_run
from finetune_operator.names import UID_LABEL
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings


class Planner:
    """Decides about jobs. What only a few decisions need is read from the apiserver and not cached."""

    def __init__(self, cache: Cache, client: Client, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._cache, self._client, self._settings, self._clock = cache, client, settings, clock
        self._events = EventReader(client)

    async def plan(self, observation: Observation) -> tuple[Observation, Plan]:
        """The decision, and the observation that it rests on.

        Args:
            observation: what the cache shows of the job.

        Raises:
            ApiError: the apiserver refused to show something.
            aiohttp.ClientError, OSError: the apiserver cannot be reached.
        """
        observation = await with_event_messages(observation, self._events, self._clock())
        decided = plan(observation, self._settings, self._clock())
        if decided.needs_earlier_run:
            observation = replace(observation, earlier_run=await self._earlier_run(observation.job))
            decided = plan(observation, self._settings, self._clock())
        if claims := claims_to_look_up(observation, decided, self._settings):
            job = observation.job
            bound = await self._bound(job.namespace, claims)
            # Other passes ran meanwhile.
            turns = self._cache.turns.others_of((job.namespace, job.name))
            observation = replace(observation, bound_claims=bound, other_preflights=turns)
            decided = plan(observation, self._settings, self._clock())
        return observation, decided

    async def _earlier_run(self, job: JobView) -> Manifest:
        """The run configuration of an earlier attempt. It is rarely needed, so the cache holds no ConfigMap's data."""
        config_maps: list[Manifest] = []
        path = list_path("v1", "ConfigMap", job.namespace)
        await self._client.list_into(path, f"{UID_LABEL}={job.uid}", config_maps.append)
        return earlier_run(job, config_maps)

    async def _bound(self, namespace: str, claims: Iterable[str]) -> frozenset[str]:
        """The claims that have a volume. A claim that cannot be read counts as one without a volume."""
        bound = set()
        for name in claims:
            with suppress(ApiError):
                claim = await self._client.get("v1", "PersistentVolumeClaim", namespace, name)
                if claim.get("status", {}).get("phase") == "Bound":
                    bound.add(name)
        return frozenset(bound)
