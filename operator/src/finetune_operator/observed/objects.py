"""What the operator reads of Kubernetes objects: small, typed, and lenient with what it does not know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from finetune_api.messages import PreflightResult, Result
from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import BudgetSpec
from finetune_api.status import FineTuneJobStatus, usable_time
from pydantic import ValidationError

from finetune_operator.names import ATTEMPT_LABEL, HASH_ANNOTATION, INDEX_ANNOTATION

_OVERDUE = "DeadlineExceeded"
_ENDED = ("Succeeded", "Failed")
"""Phases of pods without any container that runs."""

_LEFT_OUT = {"dataset": 2, "method": 2, "training": 2, "evaluation": 2, "output": 3}
"""Sections of which a started job does without what can't be read, and how many names lead to what is left out. Its
trainers have a copy of their own, and nobody could mend it: only a budget and a run policy can be edited then."""

Raw = Mapping[str, Any]
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_Said = TypeVar("_Said", Result, PreflightResult)


@dataclass(frozen=True)
class JobView:
    """A FineTuneJob as it is stored.

    Attributes:
        created_at: when it was made.
        spec: the spec, without fields that this version does not know; None where it can't be read. Of a job that has
            started, also without what another version let through and only trainers read.
        spec_error: why it can't be read as a whole, by field.
        status: what the operator wrote last.
        limits: its budget and what it runs on, which are read on their own where the spec can't be; None where these
            can't be either.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created_at: datetime
    deleting: bool
    spec: FineTuneJobSpec | None
    spec_error: str | None
    status: FineTuneJobStatus
    limits: tuple[BudgetSpec, ComputeSpec] | None = None


@dataclass(frozen=True)
class PodView:
    """A trainer's pod.

    Attributes:
        leaving_at: it is being deleted, and should be gone by then.
        gone: it has been deleted; what is here was seen before.
        unschedulable: the scheduler's words, while no node takes it.
        waiting: reason and message of the kubelet, while its container can't start.
        exit_code: of the trainer, once it ended.
        lingers: its trainer has ended, and another of its containers has not: it holds its node.
        released_at: when the last of its containers ended.
        result: what the trainer said at its end, where that can be read.
        preflight: what a check said at its end, where that can be read.
        said: its termination message as it stands there.
        overdue: the kubelet ended it because its activeDeadlineSeconds had passed.
        ended_by: reason and message of the kubelet, which refused the pod or ended it.
        disruption: why it was taken from its node, in the words of who did it.
        image_id: what the node really pulled.
    """

    name: str
    index: int
    leaving_at: datetime | None
    gone: bool
    ip: str | None
    node: str | None
    scheduled_at: datetime | None
    unschedulable: str | None
    waiting: tuple[str, str] | None
    running: bool
    finished_at: datetime | None
    exit_code: int | None
    lingers: bool
    released_at: datetime | None
    oom_killed: bool
    result: Result | None
    preflight: PreflightResult | None
    said: str
    overdue: bool
    ended_by: tuple[str, str] | None
    disruption: str | None
    image_id: str | None


@dataclass(frozen=True)
class AttemptView:
    """One attempt: a Job and its pods.

    Attributes:
        suspended: whether the Job waits to be admitted (by Kueue), for the first time or after a preemption.
        suspended_at: since when it does.
        released_at: since when it need not wait: its creation, where no queue admits it; None where that is not known
            yet.
        failed: reason and message of the Job's Failed condition.
        finished_at: when the Job was finished.
        uid: of the Job, where it is there.
        wanted: how many pods the Job is to have.
        no_pod: why its controller can't make a pod, in the apiserver's words, where that was asked for.
    """

    number: int
    name: str
    created_at: datetime
    suspended: bool
    suspended_at: datetime | None
    released_at: datetime | None
    deleting: bool
    complete: bool
    failed: tuple[str, str] | None
    finished_at: datetime | None
    pods: tuple[PodView, ...]
    uid: str = ""
    wanted: int = 1
    no_pod: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.complete or self.failed is not None

    @property
    def present(self) -> tuple[PodView, ...]:
        """Its pods that have not been deleted."""
        return tuple(pod for pod in self.pods if not pod.gone)


def time_of(text: str | None) -> datetime | None:
    """A Kubernetes timestamp; None where there is none, or none that can be read."""
    try:
        return usable_time(datetime.fromisoformat(text)) if text else None
    except (ValueError, TypeError):
        return None


def view_job(raw: Raw) -> JobView:
    """Read a stored FineTuneJob. It never raises: what can't be read is in `spec_error`, or left out of the status."""
    metadata, raw_spec = raw["metadata"], raw.get("spec") or {}
    created = time_of(metadata["creationTimestamp"]) or _LONG_AGO
    status = _read_status(raw.get("status") or {}, created)
    spec, error = _read_spec(raw_spec)
    if spec is None and status.start_time is not None:
        spec = _read_in_part(raw_spec)
    return JobView(metadata["namespace"], metadata["name"], metadata["uid"], metadata.get("generation", 1),
                   metadata["resourceVersion"], created, "deletionTimestamp" in metadata, spec, error,
                   status, (spec.budget, spec.compute) if spec else _read_limits(raw_spec))


def _read_status(raw: Raw, created: datetime) -> FineTuneJobStatus:
    """A status without the fields that this version can't read: another version wrote them, or somebody nonsense."""
    try:
        return FineTuneJobStatus.model_validate_json(json.dumps(raw))
    except (ValueError, RecursionError):
        readable = {name: value for name, value in raw.items() if _is_readable(name, value)}
    # A job must not be started, or run, again because somebody wrote such a time.
    times = {name: created.isoformat() for name in ("startTime", "completionTime")
             if raw.get(name) and name not in readable}
    return FineTuneJobStatus.model_validate_json(json.dumps({**readable, **times}))


def _is_readable(name: str, value: Any) -> bool:
    try:
        FineTuneJobStatus.model_validate_json(json.dumps({name: value}))
    except (ValueError, RecursionError):
        return False
    return True


def _read_spec(raw: Raw) -> tuple[FineTuneJobSpec | None, str | None]:
    try:
        return FineTuneJobSpec.model_validate_json(json.dumps(raw), extra="ignore"), None
    except ValidationError as error:
        faults = (f"{'.'.join(('spec', *map(str, fault['loc'])))}: {fault['msg']}" for fault in error.errors())
        return None, "; ".join(faults)
    except (ValueError, RecursionError) as error:
        return None, f"spec: it can't be read ({type(error).__name__}); write it anew"


def _read_limits(raw: Raw) -> tuple[BudgetSpec, ComputeSpec] | None:
    try:
        budget, compute = (json.dumps(raw.get(name) or {}) for name in ("budget", "compute"))
        return (BudgetSpec.model_validate_json(budget, extra="ignore"),
                ComputeSpec.model_validate_json(compute, extra="ignore"))
    except (ValueError, RecursionError):
        return None


def _read_in_part(raw: Raw) -> FineTuneJobSpec | None:
    """A spec without the fields that this version can't read; None where it can't do without one of them."""
    try:
        return FineTuneJobSpec.model_validate_json(json.dumps(raw), extra="ignore")
    except RecursionError:
        return None
    except ValidationError as error:
        places = {tuple(map(str, fault["loc"])) for fault in error.errors()}
    rest: Any = raw
    for place in places:
        levels = _LEFT_OUT.get(place[0]) if place else None
        if levels is None or len(place) < levels:
            return None
        rest = _without(rest, place[:levels])
    return None if rest == raw else _read_in_part(rest)


def _without(raw: Any, place: tuple[str, ...]) -> Any:
    """An object without what a path of names leads to, where it is there."""
    if not isinstance(raw, dict) or place[0] not in raw:
        return raw
    kept = {key: value for key, value in raw.items() if key != place[0]}
    return kept if len(place) == 1 else {**kept, place[0]: _without(raw[place[0]], place[1:])}


def view_attempt(raw: Raw, pods: Iterable[PodView], label: str = ATTEMPT_LABEL) -> AttemptView:
    """Read an attempt's Job, or that of a check, whose number is the generation that another label has."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    every = {condition["type"]: condition for condition in status.get("conditions") or ()}
    conditions = {kind: condition for kind, condition in every.items() if condition.get("status") == "True"}
    ended = conditions.get("Failed") or conditions.get("Complete")
    failed = conditions.get("Failed")
    created = time_of(metadata["creationTimestamp"]) or _LONG_AGO
    held = every.get("Suspended")
    released = created if held is None else time_of(held.get("lastTransitionTime"))
    return AttemptView(
        number=int(metadata["labels"][label]),
        name=metadata["name"],
        created_at=created,
        suspended=bool(spec.get("suspend")),
        suspended_at=time_of(conditions.get("Suspended", {}).get("lastTransitionTime")),
        # The Job's controller makes pods first, and tells then that they are no longer held back.
        released_at=None if "Suspended" in conditions else released,
        deleting="deletionTimestamp" in metadata,
        complete="Complete" in conditions,
        failed=(failed.get("reason", ""), failed.get("message", "")) if failed else None,
        finished_at=time_of(ended.get("lastTransitionTime")) if ended else None,
        pods=tuple(sorted(pods, key=lambda pod: (pod.index, pod.name))),
        uid=metadata["uid"], wanted=spec.get("parallelism", 1),
    )


def view_pod(raw: Raw, gone: bool = False) -> PodView:
    """Read a trainer's pod, which may have been deleted since."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    containers = status.get("containerStatuses") or ()
    container: Raw = next((one for one in containers if one["name"] == "trainer"), {})
    state, terminated = container.get("state") or {}, _terminated(container)
    others_run = any(not _terminated(one) for one in containers)
    waiting = state.get("waiting") or {}
    said = terminated.get("message") or ""
    return PodView(
        name=metadata["name"],
        index=int((metadata.get("annotations") or {}).get(INDEX_ANNOTATION, 0)),
        leaving_at=time_of(metadata.get("deletionTimestamp")),
        gone=gone,
        ip=status.get("podIP"),
        node=spec.get("nodeName"),
        scheduled_at=time_of(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else None,
        waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        running="running" in state,
        finished_at=time_of(terminated.get("finishedAt")),
        exit_code=terminated.get("exitCode"),
        lingers=bool(terminated) and others_run and not gone and status.get("phase") not in _ENDED,
        released_at=None if others_run else max(
            (at for one in containers if (at := time_of(_terminated(one).get("finishedAt")))), default=None),
        oom_killed=terminated.get("reason") == "OOMKilled",
        result=_read(Result, said),
        preflight=_read(PreflightResult, said),
        said=said,
        overdue=status.get("reason") == _OVERDUE,
        ended_by=_ended_by(status),
        disruption=(disruption.get("message") or disruption.get("reason")) if disrupted else None,
        image_id=container.get("imageID") or None,
    )


def _terminated(container: Raw) -> Raw:
    for state in container.get("state"), container.get("lastState"):
        if found := (state or {}).get("terminated"):
            ended: Raw = found
            return ended
    return {}


def _ended_by(status: Raw) -> tuple[str, str] | None:
    reason = status.get("reason") if status.get("phase") == "Failed" else None
    return (reason, status.get("message") or "") if reason and reason != _OVERDUE else None


def _read(kind: type[_Said], said: str) -> _Said | None:
    if not said:
        return None
    try:
        return kind.read(said)
    except ValidationError:
        return None


def child_hash(raw: Raw) -> str | None:
    """The digest that the operator noted on a child that it applied."""
    return (raw["metadata"].get("annotations") or {}).get(HASH_ANNOTATION)
