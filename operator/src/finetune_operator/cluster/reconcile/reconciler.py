"""One pass over one job: observe, plan, apply. A pass can be killed at any point and run again with the same result."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import ClientError

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.actions import ActionRunner
from finetune_operator.cluster.reconcile.planning import Planner
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.status_writer import StatusWriter
from finetune_operator.cluster.reconcile.writes import raise_first
from finetune_operator.decide.actions import Plan
from finetune_operator.decide.preflight.turns import preflight_reason
from finetune_operator.decide.stages.undecidable import plan_after_error, plan_after_refusal
from finetune_operator.errors import ApiError, DecisionFailed, NameTaken
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings


class Reconciler:
    """Makes passes over jobs, one at a time for each job."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key], client: Client, settings: Settings, runtime: Runtime
                 ) -> None:
        """Set up.

        Args:
            cache: the state of all objects.
            queue: where a job is added that needs another pass.
            client: of the apiserver.
            settings: the administrator's.
            runtime: clock, lease check and fault hook.
        """
        self._cache, self._queue, self._settings, self._clock = cache, queue, settings, runtime.clock
        self._planner = Planner(cache, client, settings, runtime.clock)
        self._actions = ActionRunner(cache, client, runtime)
        self._status = StatusWriter(cache, queue, client, runtime)

    async def reconcile(self, key: Key) -> None:
        """Make one pass over one job. Whatever happens, the job's conditions say it.

        Raises:
            ApiError: the apiserver refused something (409: the plan rests on an old state).
            ChildRefused: a quota, a policy or another owner's object stands in the way of a child.
            DecisionFailed: the plan could not be made.
            LeaseLost: this replica may not act any more.
            aiohttp.ClientError, OSError: the apiserver cannot be reached.
        """
        job = self._cache.view(key)
        if job is None:
            self._queue.forget(key)
            return
        observation, decided, fault = await self._observe_and_plan(key, job)
        await self._apply(observation.job, decided)
        if fault is not None:
            raise DecisionFailed(str(fault)) from fault
        if decided.requeue_after is not None:
            self._queue.add_after(key, decided.requeue_after.total_seconds())

    async def _observe_and_plan(self, key: Key, job: JobView) -> tuple[Observation, Plan, Exception | None]:
        """The observation, the plan, and the error if no plan could be made: then the plan is to report the error."""
        observation = Observation(job)
        try:
            observation = self._cache.around(job)
            observation, decided = await self._planner.plan(observation)
            # Recorded before any other pass plans.
            self._cache.turns.record(key, None if job.deleting else preflight_reason(decided.status))
        except ApiError as error:
            await self._report_refusals(job, Plan(job.status), [error])
        except (ClientError, OSError):
            raise
        except Exception as error:
            return observation, plan_after_error(observation, self._settings, self._clock(), error), error
        return observation, decided, None

    async def _apply(self, job: JobView, decided: Plan) -> None:
        refusals = await self._actions.run(job, decided.actions)
        if refusals:
            await self._report_refusals(job, decided, refusals)
        await self._status.write(job, decided)

    async def _report_refusals(self, job: JobView, decided: Plan, refusals: list[ApiError | NameTaken]) -> NoReturn:
        """Write the refusals into the conditions, and raise the first.

        Conflicts are not reported: the next pass plans with the new state.
        """
        reported = [one for one in refusals if isinstance(one, NameTaken) or not one.is_conflict]
        if reported:
            message = "; ".join(dict.fromkeys(map(str, reported)))
            await self._status.write(job, plan_after_refusal(job, decided, message, self._clock()))
        raise_first(reported, refusals)
