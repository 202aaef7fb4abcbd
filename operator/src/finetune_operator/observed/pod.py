"""The pod of a trainer, of a preflight check or of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.messages import PreflightResult, Result
from pydantic import ValidationError

from finetune_operator.names import INDEX_ANNOTATION, REPORT_LABEL
from finetune_operator.observed.timestamps import time_of

_TRAINER = "trainer"
_DEADLINE_EXCEEDED = "DeadlineExceeded"
_FINAL_PHASES = ("Succeeded", "Failed")
"""In these phases no container of a pod runs."""

_Message = TypeVar("_Message", Result, PreflightResult, ReportedExperiment)


@dataclass(frozen=True)
class PodView:
    """A trainer's pod.

    Attributes:
        index: its completion index in the Job.
        deletion_deadline: it is being deleted and should be gone by then; None if nobody has deleted it.
        deleted: whether it no longer exists; the other attributes are those that were observed last.
        unschedulable: the scheduler's message while no node can take it.
        waiting: the kubelet's reason and message while its container cannot start.
        finished_at: when the trainer's container ended.
        exit_code: the trainer's, after its end.
        has_running_sidecar: whether the trainer has ended and another container keeps the pod on its node.
        released_at: when the last of its containers ended, and with it the use of the node.
        result: the trainer's result, if its termination message can be read.
        preflight_result: the check's result, if its termination message can be read.
        reported: what the pod of a report says about it, if its termination message can be read.
        deadline_exceeded: whether the kubelet ended it because its activeDeadlineSeconds had passed.
        kubelet_failure: the kubelet's reason and message if it refused the pod or ended it.
        disruption: why it was taken from its node, in the words of the component that did it.
        image_id: the image that the node pulled, with its digest.
    """

    name: str
    index: int
    deletion_deadline: datetime | None
    deleted: bool
    ip: str | None
    node: str | None
    scheduled_at: datetime | None
    unschedulable: str | None
    waiting: tuple[str, str] | None
    running: bool
    finished_at: datetime | None
    exit_code: int | None
    has_running_sidecar: bool
    released_at: datetime | None
    oom_killed: bool
    result: Result | None
    preflight_result: PreflightResult | None
    reported: ReportedExperiment | None
    deadline_exceeded: bool
    kubelet_failure: tuple[str, str] | None
    disruption: str | None
    image_id: str | None


def view_pod(raw: Mapping[str, Any], deleted: bool = False) -> PodView:
    """Read a trainer's pod, which may have been deleted since."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    containers = status.get("containerStatuses") or ()
    container: Mapping[str, Any] = next((one for one in containers if one["name"] == _TRAINER), {})
    state, terminated = container.get("state") or {}, _terminated(container)
    any_runs = any(not _terminated(one) for one in containers)
    waiting = state.get("waiting") or {}
    termination_message = terminated.get("message") or ""
    return PodView(
        name=metadata["name"],
        index=int((metadata.get("annotations") or {}).get(INDEX_ANNOTATION, 0)),
        deletion_deadline=time_of(metadata.get("deletionTimestamp")),
        deleted=deleted,
        ip=status.get("podIP"),
        node=spec.get("nodeName"),
        scheduled_at=time_of(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else None,
        waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        running="running" in state,
        finished_at=time_of(terminated.get("finishedAt")),
        exit_code=terminated.get("exitCode"),
        has_running_sidecar=(bool(terminated) and any_runs and not deleted
                             and status.get("phase") not in _FINAL_PHASES),
        released_at=None if any_runs else max(
            (at for one in containers if (at := time_of(_terminated(one).get("finishedAt")))), default=None),
        oom_killed=terminated.get("reason") == "OOMKilled",
        result=_read_message(Result, termination_message),
        preflight_result=_read_message(PreflightResult, termination_message),
        reported=(_read_message(ReportedExperiment, termination_message)
                  if REPORT_LABEL in (metadata.get("labels") or {}) else None),
        deadline_exceeded=status.get("reason") == _DEADLINE_EXCEEDED,
        kubelet_failure=_kubelet_failure(status),
        disruption=(disruption.get("message") or disruption.get("reason")) if disrupted else None,
        image_id=container.get("imageID") or None,
    )


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """The terminated state of a container; empty if it has none."""
    for state in container.get("state"), container.get("lastState"):
        if found := (state or {}).get("terminated"):
            ended: Mapping[str, Any] = found
            return ended
    return {}


def _kubelet_failure(status: Mapping[str, Any]) -> tuple[str, str] | None:
    reason = status.get("reason") if status.get("phase") == "Failed" else None
    return (reason, status.get("message") or "") if reason and reason != _DEADLINE_EXCEEDED else None


def _read_message(kind: type[_Message], text: str) -> _Message | None:
    if not text:
        return None
    try:
        return kind.read(text)
    except ValidationError:
        return None
