"""Objects as the apiserver delivers them, for the tests of decisions."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.failures import FAILURE_CLASSES, Retry
from finetune_api.messages import Outcome, ProgressMessage, Result
from finetune_api.rules import SMALLEST_SPEC, merge_patch
from finetune_api.status import Attempt, FineTuneJobStatus, PublishedAdapter
from finetune_operator import names
from finetune_operator.cluster.cache.cache import Cache, Polled
from finetune_operator.cluster.reconcile.status_document import dump_status
from finetune_operator.decide.actions import Apply, Create, Delete, Plan
from finetune_operator.decide.plan import plan
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
KEY = ("team", "tune")
UID = "11111111-1111-1111-1111-111111111111"
SETTINGS = Settings(trainer_image="registry/trainer:1")
FINAL = [(one.exit_code, Outcome(one.reason)) for one in FAILURE_CLASSES if one.exit_code and one.retry is Retry.NEVER]
"""Exit codes after which no further attempt can help, with the trainer's outcome."""

ADAPTER = PublishedAdapter(uri="s3://bucket/prefix/a", sha256="0" * 64, size_bytes=1, base_model="owner/name")


def stamp(seconds: float) -> str:
    """A Kubernetes timestamp, in seconds from NOW."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def raw_job(status: FineTuneJobStatus | dict[str, Any] | None = None, *, uid=UID, deleting=False,
            generation=1, **sections: Any) -> dict[str, Any]:
    """The smallest job, which starts without a check, with merge patches on its sections."""
    metadata: dict[str, Any] = {"namespace": KEY[0], "name": KEY[1], "uid": uid, "generation": generation,
                                "resourceVersion": "1", "creationTimestamp": stamp(-100)}
    if deleting:
        metadata["deletionTimestamp"] = stamp(0)
    raw_status = dump_status(status) if isinstance(status, FineTuneJobStatus) else status or {}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata,
            "spec": merge_patch({**copy.deepcopy(SMALLEST_SPEC), "runPolicy": {"preflight": "Skip"}}, sections),
            "status": raw_status}


def raw_attempt(number: int = 1, *, uid: str = UID, ended: str | None = None, reason: str = "BackoffLimitExceeded",
                at: float = 60, suspended: bool = False, deleting: bool = False, made: float = 0) -> dict[str, Any]:
    """An attempt's Job; `ended` is Complete or Failed."""
    metadata: dict[str, Any] = {
        "namespace": KEY[0], "name": f"{KEY[1]}-{number}", "uid": f"{uid}-job-{number}", "resourceVersion": "1",
        "creationTimestamp": stamp(made), "labels": names.labels(KEY[1], uid, number)}
    if deleting:
        metadata["deletionTimestamp"] = stamp(at)
    conditions = [{"type": ended, "status": "True", "reason": reason, "message": "", "lastTransitionTime": stamp(at)}]
    if suspended:
        conditions.append({"type": "Suspended", "status": "True", "lastTransitionTime": stamp(at)})
    return {"kind": "Job", "metadata": metadata, "spec": {"suspend": suspended},
            "status": {"conditions": [one for one in conditions if one["type"]]}}


def raw_pod(number: int = 1, *, index: int = 0, uid: str = UID, scheduled: float | None = 0, running: bool = False,
            waiting: tuple[str, str] | None = None, exit_code: int | None = None, said: Result | str = "",
            oom: bool = False, at: float = 60, unschedulable: str | None = None, disruption: str | None = None,
            image_id: str = "", leaving: bool = False, overdue: bool = False, node: str = "node-a",
            ended_by: tuple[str, str] | None = None, beside: float | None = None) -> dict[str, Any]:
    """A trainer's pod in one of its states.

    `ended_by` is reason and message of a kubelet that refused or evicted it; `beside` is when a container beside the
    trainer ends, which runs on until the trainer has ended where it is infinite.
    """
    conditions: list[dict[str, Any]] = []
    if unschedulable is not None:
        conditions.append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                           "message": unschedulable})
    elif scheduled is not None:
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(scheduled)})
    if disruption:
        conditions.append({"type": "DisruptionTarget", "status": "True", "message": disruption})
    state: dict[str, Any] = {}
    if exit_code is not None:
        words = said.to_bytes().decode() if isinstance(said, Result) else said
        state = {"terminated": {"exitCode": exit_code, "message": words, "finishedAt": stamp(at),
                                "reason": "OOMKilled" if oom else "Error"}}
    elif running:
        state = {"running": {"startedAt": stamp(1)}}
    elif waiting:
        state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    raw: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {"namespace": KEY[0], "name": f"{KEY[1]}-{number}-{index}-x", "uid": f"{uid}-pod-{number}-{index}",
                     "resourceVersion": "1", "creationTimestamp": stamp(0), "labels": names.labels(KEY[1], uid, number),
                     "annotations": {"batch.kubernetes.io/job-completion-index": str(index)}},
        "spec": {"nodeName": node if unschedulable is None else None},
        "status": {"phase": "Running" if running else "Pending", "podIP": "10.0.0.9", "conditions": conditions,
                   "containerStatuses": [{"name": "trainer", "state": state, "imageID": image_id}] if state else []},
    }
    if leaving:
        raw["metadata"]["deletionTimestamp"] = stamp(at)
    if overdue:
        raw["status"]["reason"] = "DeadlineExceeded"
    if ended_by:
        raw["status"] |= {"phase": "Failed", "reason": ended_by[0], "message": ended_by[1]}
    if beside is not None:
        goes_on = beside == math.inf
        raw["status"]["phase"] = "Running" if goes_on else "Failed" if exit_code else "Succeeded"
        raw["status"]["containerStatuses"].append({"name": "proxy", "state": {"running": {}} if goes_on else {
            "terminated": {"exitCode": 0, "finishedAt": stamp(beside)}}})
    return raw


def raw_check(generation: int = 1, **known: Any) -> dict[str, Any]:
    """The Job of a check before the start; `known` as for an attempt's."""
    return _as_check(raw_attempt(generation, **known), generation)


def raw_check_pod(generation: int = 1, **known: Any) -> dict[str, Any]:
    """The pod of a check; `known` as for a trainer's."""
    return _as_check(raw_pod(generation, **known), generation)


def _as_check(raw: dict[str, Any], generation: int) -> dict[str, Any]:
    metadata = raw["metadata"]
    del metadata["labels"][names.ATTEMPT_LABEL]
    metadata["labels"][names.PREFLIGHT_LABEL] = str(generation)
    metadata["name"] = names.preflight_name(KEY[1], generation) + ("" if raw["kind"] == "Job" else "-x")
    metadata["uid"] += "-check"
    if raw["kind"] == "Pod":
        metadata["ownerReferences"] = [{"kind": "Job", "controller": True, "uid": f"{UID}-job-{generation}-check"}]
    return raw


def result(outcome: Outcome, message: str = "what happened", **known: Any) -> Result:
    """The result that a trainer reports at its end."""
    return Result(outcome=outcome, message=message, **known)


def observe(*raws: dict[str, Any], progress: ProgressMessage | None = None, polled: float | None = None,
            attempt: int = 1, gone: tuple[dict[str, Any], ...] = (), earlier_run: dict[str, Any] | None = None
            ) -> Observation:
    """The observation of a cache that received these objects, and others that were deleted again.

    `earlier_run` is the run configuration of an earlier attempt.
    """
    cache = Cache()
    for raw in (*raws, *gone):
        cache.record(raw)
    for raw in gone:
        cache.record(raw, deleted=True)
    if polled is not None:
        cache.polled[UID] = Polled(attempt, NOW + timedelta(seconds=polled), progress)
    observation = cache.observe(KEY)
    assert observation is not None
    return replace(observation, earlier_run=earlier_run or {})


def decide(*raws: dict[str, Any], at: float = 0, settings: Settings = SETTINGS, **known: Any) -> Plan:
    """The decision about these objects, at a time in seconds from NOW."""
    return plan(observe(*raws, **known), settings, NOW + timedelta(seconds=at))


def started(**change: Any) -> FineTuneJobStatus:
    """The status of a job whose start is recorded, at NOW."""
    return decide(raw_job()).status.model_copy(update=change)


def reported(decided: Plan) -> tuple[str, str, str]:
    """Phase, reason and message of a decision."""
    told = next(one for one in decided.status.conditions if one.type == "Progressing")
    return str(decided.status.phase), told.reason, told.message


def conditions(decided: Plan) -> dict[str, str]:
    """The conditions of a decision, by type."""
    return {str(one.type): str(one.status) for one in decided.status.conditions}


def actions_of(decided: Plan) -> list[str]:
    """The actions of a decision in short: what is created, applied and deleted."""
    words = []
    for action in decided.actions:
        if isinstance(action, Delete):
            words.append(f"delete {action.kind} {action.name}")
        else:
            assert isinstance(action, Create | Apply)
            verb = "create" if isinstance(action, Create) else "apply"
            words.append(f"{verb} {action.manifest['kind']} {action.manifest['metadata']['name']}")
    return words


def created(decided: Plan, kind: str) -> dict[str, Any]:
    """The manifest of a kind that a decision creates."""
    return next(action.manifest for action in decided.actions
                if isinstance(action, Create) and action.manifest["kind"] == kind)


def run_json(decided: Plan) -> dict[str, Any]:
    """The run configuration that a decision creates."""
    content: dict[str, Any] = json.loads(created(decided, "ConfigMap")["data"]["run.json"])
    return content


def attempt(number: int = 1, reason: str = "Running", start: float = 0.0, end: float | None = None, **known: Any
            ) -> Attempt:
    """The status' record of an attempt; times in seconds after NOW."""
    return Attempt.model_validate({"number": number, "reason": reason, "startTime": stamp(start),
                                   "endTime": stamp(end) if end is not None else None, **known}, strict=False)


def brief_records(decided: Plan) -> tuple[Attempt, ...]:
    """The records of the attempts after a decision, without nodes, exit codes and messages."""
    words = {"node": None, "exit_code": None, "message": None, "checkpoint_step": None}
    return tuple(one.model_copy(update=words) for one in decided.status.attempts)


def two_passes(status: FineTuneJobStatus, *raws: dict[str, Any], at=70.0, **sections: Any
               ) -> tuple[Plan, Plan]:
    """The decision of the pass that observes the end, and that of the next pass."""
    ended = decide(raw_job(status, **sections), *raws, at=at)
    return ended, decide(raw_job(ended.status, **sections), *raws, at=at)
