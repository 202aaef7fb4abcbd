"""A small world for one job: its pods are scheduled, refused, started, drained and lost at random, as in a cluster."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

from finetune_api.messages import Outcome, ProgressMessage, Stage
from finetune_api.status import Progress
from finetune_operator.cluster.cache.cache import Cache, Polled
from finetune_operator.cluster.reconcile.status_document import dump_status
from finetune_operator.decide.actions import Action, Create, Delete, Plan
from finetune_operator.decide.plan import plan
from finetune_operator.manifests.run_config import earlier_run
from finetune_operator.names import ATTEMPT_LABEL

from tests.operator.objects import ADAPTER, KEY, NOW, SETTINGS, UID, actions_of, raw_attempt, raw_job, raw_pod, result

CODES = (0, 0, 1, 65, 71, 75, 137, 137, 143)
LOST = 300.0
Known = dict[str, Any]
"""Arguments of `raw_attempt` and `raw_pod` for one object."""


class World:
    """One job with its children, and what happens to them.

    Attributes:
        status: what the operator wrote last.
        decisions: what the operator decided in each pass, for the message of a failure.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.status: dict[str, Any] = {}
        self.decisions: list[str] = []
        self._jobs: dict[int, Known] = {}
        self._pods: dict[tuple[int, int], Known] = {}
        self._gone: dict[tuple[int, int], Known] = {}
        self._others: dict[str, dict[str, Any]] = {}
        self._polled: Polled | None = None
        self._checkpoint, self._suspended = 0, False
        self._nodes, self._queued, self._sidecar = self.random.choice((1, 1, 2)), self._may(0.2), self._may(0.5)
        self._sections = {"compute": {"nodes": self._nodes, **({"queueName": "q"} if self._queued else {})},
                          "budget": {"maxCost": "3"} if self._may(0.3) else {}}

    def _may(self, share: float) -> bool:
        return self.random.random() < share

    @property
    def idle(self) -> bool:
        """Whether the job is done and nothing of it is left to happen."""
        return "completionTime" in self.status and all("ended" in known for known in self._jobs.values())

    # The operator

    def settle(self) -> Plan:
        """Let the operator look until there is nothing more for it to do; what it decided last."""
        for _ in range(8):
            before, decided = self.status, self._look()
            if not decided.actions and self.status == before:
                break
        return decided

    def _look(self) -> Plan:
        cache = Cache()
        gone = [raw_pod(number, index=index, **known) for (number, index), known in self._gone.items()]
        for raw in (raw_job(self.status, **self._sections, runPolicy={"suspend": self._suspended}), *gone,
                    *(raw_pod(number, index=index, **known) for (number, index), known in self._pods.items()),
                    *(raw_attempt(number, **known) for number, known in self._jobs.items()),
                    *(one for one in self._others.values() if one["kind"] == "Service")):
            cache.record(raw)
        for raw in gone:
            cache.record(raw, deleted=True)
        if self._polled:
            cache.polled[UID] = self._polled
        observation = cache.observe(KEY)
        assert observation is not None
        moment = NOW + timedelta(seconds=self.now)
        decided = plan(observation, SETTINGS, moment)
        if decided.needs_earlier_run:
            maps = [one for one in self._others.values() if one["kind"] == "ConfigMap"]
            decided = plan(replace(observation, earlier_run=earlier_run(observation.job, maps)), SETTINGS, moment)
        self.status = dump_status(decided.status)
        self.decisions.append(
            f"{self.now:.0f}: {decided.status.phase} {actions_of(decided)} {decided.status.attempts[-1:]}")
        for action in decided.actions:
            self._act(action)
        return decided

    def _act(self, action: Action) -> None:
        if isinstance(action, Delete) and action.kind == "Job":
            self._jobs.get(int(action.name.rpartition("-")[2]), {})["deleting"] = True
        elif isinstance(action, Create):
            made = action.manifest
            if made["kind"] == "Job":
                assert not self._held(), f"attempts {self._held()} still hold nodes"
                self._jobs.setdefault(int(made["metadata"]["labels"][ATTEMPT_LABEL]), {
                    "suspended": self._queued, "made": self.now})
            elif made["kind"] == "Service":
                made["metadata"] |= {"uid": made["metadata"]["name"], "resourceVersion": "1"}
                made["spec"]["clusterIP"] = "10.0.0.1"
            self._others.setdefault(f"{made['kind']} {made['metadata']['name']}", made)

    def _held(self) -> set[int]:
        """Attempts whose pods hold a node, as far as anybody can know."""
        return {number for (number, _), known in self._pods.items()
                if known.get("scheduled") is not None and not _is_over(known)
                and not (known.get("leaving") and self.now - known["at"] >= LOST)}

    # The cluster

    def pass_time(self) -> None:
        """Something happens to what there is."""
        self.now += self.random.choice((1, 5, 30, 120, 700))
        self._suspended ^= self._may(0.02)
        for number, known in list(self._jobs.items()):
            pods = {place: pod for place, pod in self._pods.items() if place[0] == number}
            if known.get("deleting"):
                self._delete(number, pods)
            elif known.get("suspended"):
                known["suspended"] = self._may(0.7)
            elif "ended" not in known:
                self._run(number, known, pods)
        running = [number for (number, _), pod in self._pods.items() if pod.get("running")]
        if running and self._may(0.6):
            self._report(max(running))

    def _delete(self, number: int, pods: dict[tuple[int, int], Known]) -> None:
        for place, pod in pods.items():
            if not pod.get("leaving"):
                pod.update(leaving=True, at=pod.get("at", self.now))
            elif self._may(0.5):
                if pod.get("running"):
                    self._end(pod, self.random.choice((1, 75, 75, 137)))
                self._gone[place] = self._pods.pop(place)
        if not any(place[0] == number for place in self._pods) and self._may(0.6):
            del self._jobs[number]
            self._gone = {place: pod for place, pod in self._gone.items() if place[0] != number}

    def _run(self, number: int, job: Known, pods: dict[tuple[int, int], Known]) -> None:
        if not pods and self._may(0.6):
            for index in range(self._nodes):
                self._pods[number, index] = {"scheduled": None, "unschedulable": "0/1"}
        for pod in pods.values():
            self._change(pod)
        over = [pod for pod in pods.values() if _is_over(pod)]
        if any("ended_by" in pod or pod.get("exit_code") for pod in over):
            for pod in pods.values():  # One has failed: the Job's controller deletes the others.
                if not _is_over(pod):
                    self._end(pod, pod.get("exit_code", 143))
                    pod["beside"] = None
            job.update(ended="Failed", at=self.now)
        elif over and len(over) == len(pods):
            job.update(ended="Complete", at=self.now)
        elif pods and self._queued and self._may(0.05):
            job.update(suspended=True, at=self.now)
            for pod in pods.values():
                pod.update(leaving=True, at=pod.get("at", self.now))

    def _change(self, pod: Known) -> None:
        """What the scheduler, the kubelet or the trainer does to a pod."""
        if "ended_by" in pod or "exit_code" in pod:
            return
        if pod.get("unschedulable"):
            if self._may(0.4):
                pod.pop("unschedulable")
                pod.update(scheduled=self.now, waiting=("ContainerCreating", ""))
        elif not pod.get("running"):
            what = self.random.choice(("run", "run", "run", "refuse", "stuck", "wait"))
            if what == "run":
                pod.update(running=True, waiting=None, beside=math.inf if self._sidecar else None)
            elif what == "refuse":
                pod.update(ended_by=("OutOfcpu", "no"), node=self.random.choice("abc"), at=self.now)
            elif what == "stuck":
                pod["waiting"] = ("ImagePullBackOff", "x")
        elif self._may(0.2):
            self._end(pod, self.random.choice(CODES), disruption="drained" if self._may(0.3) else None)
        elif self._may(0.05):
            pod.update(leaving=True, at=self.now, disruption="its node is silent")

    def _end(self, pod: Known, code: int, **how: Any) -> None:
        said = {0: result(Outcome.SUCCEEDED, adapter=ADAPTER),
                75: result(Outcome.STOPPED, checkpoint_step=self._checkpoint)}.get(code, "")
        pod.update(running=False, exit_code=code, said=said, at=self.now, **how)

    def _report(self, number: int) -> None:
        self._checkpoint += self.random.choice((0, 0, 1))
        resumed = max(self._checkpoint - self.random.choice((0, 1, 2)), 0)
        message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(
            step=self._checkpoint, total_steps=10**6, percent=0), checkpoint_step=self._checkpoint,
            resumed_from_step=resumed)
        self._polled = Polled(number, NOW + timedelta(seconds=self.now), message)


def _is_over(pod: Known) -> bool:
    return "ended_by" in pod or (pod.get("exit_code") is not None and pod.get("beside") != math.inf)
