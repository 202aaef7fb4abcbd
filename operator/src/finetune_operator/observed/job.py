"""The stored FineTuneJob, with whatever this version can read of its spec and its status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.job import KIND
from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import BudgetSpec
from finetune_api.status import FineTuneJobStatus
from pydantic import ValidationError

from finetune_operator.names import HASH_ANNOTATION, HELD_ANNOTATION
from finetune_operator.observed.readable import read_readable
from finetune_operator.observed.timestamps import EPOCH, time_of

_REMOVABLE_DEPTH = {"dataset": 2, "method": 2, "training": 2, "evaluation": 2, "output": 3}
"""For each section, the length of the path to a part that may be removed from the spec of a started job.

Only the trainer reads these parts, and it has a copy of its own. Nobody could correct them: after the start, only
`budget` and `runPolicy` can be edited.
"""


@dataclass(frozen=True)
class JobView:
    """A FineTuneJob as it is stored.

    Attributes:
        created_at: creation time.
        deleting: whether its deletion has been requested.
        spec: the spec without fields that this version does not know; None if it cannot be read. For a job that has
            started, unreadable parts that only the trainer uses are left out too, and its accelerator is the chosen one
            if the spec says `auto`.
        spec_error: why the complete spec cannot be read, by field; None if it can.
        status: the status that the operator wrote last.
        owner: the experiment that owns the job; None for a job of its own.
        held: whether the experiment has suspended it, and not somebody else.
        written_hash: digest of what its experiment created it from; None for a job of its own.
        limits: the budget and the compute section; they are read on their own if the spec cannot be read. None if
            these cannot be read either.
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
    owner: ExperimentOwner | None = None
    held: bool = False
    written_hash: str | None = None

    @property
    def kind(self) -> str:
        """Kind of the resource."""
        return KIND


@dataclass(frozen=True)
class ExperimentOwner:
    """The experiment that owns a job."""

    name: str
    uid: str


def owner_of(raw: Mapping[str, Any]) -> ExperimentOwner | None:
    """The experiment that owns a stored job."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return next((ExperimentOwner(one["name"], one["uid"]) for one in owners
                 if one.get("controller") and one.get("kind") == EXPERIMENT_KIND), None)


def view_job(raw: Mapping[str, Any]) -> JobView:
    """Read a stored FineTuneJob.

    It never raises: `spec_error` says why a spec cannot be read, and unreadable fields of the status are left out.
    """
    metadata, raw_spec = raw["metadata"], raw.get("spec") or {}
    created_at = time_of(metadata["creationTimestamp"]) or EPOCH
    # An unreadable time must not make the operator start or run the job again.
    status = read_readable(FineTuneJobStatus, raw.get("status") or {},
                           dict.fromkeys(("startTime", "completionTime"), created_at.isoformat()))
    spec, error = _read_spec(raw_spec)
    if spec is None and status.start_time is not None:
        spec = _read_spec_in_part(raw_spec)
    limits = (spec.budget, spec.compute) if spec else _read_limits(raw_spec)
    choice = status.preflight.accelerator if status.start_time is not None and status.preflight else None
    if choice is not None:
        spec = spec and spec.on_accelerator(choice.name)
        limits = limits and (limits[0], limits[1].on_accelerator(choice.name))
    return JobView(
        namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"],
        generation=metadata.get("generation", 1), resource_version=metadata["resourceVersion"], created_at=created_at,
        deleting="deletionTimestamp" in metadata, spec=spec, spec_error=error, status=status,
        limits=limits, owner=owner_of(raw),
        held=HELD_ANNOTATION in (metadata.get("annotations") or {}),
        written_hash=(metadata.get("annotations") or {}).get(HASH_ANNOTATION),
    )


def _read_spec(raw: Mapping[str, Any]) -> tuple[FineTuneJobSpec | None, str | None]:
    try:
        return FineTuneJobSpec.model_validate_json(json.dumps(raw), extra="ignore"), None
    except ValidationError as error:
        faults = (f"{'.'.join(('spec', *map(str, fault['loc'])))}: {fault['msg']}" for fault in error.errors())
        return None, "; ".join(faults)
    except (ValueError, RecursionError) as error:
        return None, f"spec: the operator cannot read it ({type(error).__name__}). Write the spec again"


def _read_limits(raw: Mapping[str, Any]) -> tuple[BudgetSpec, ComputeSpec] | None:
    try:
        budget, compute = (json.dumps(raw.get(name) or {}) for name in ("budget", "compute"))
        return (BudgetSpec.model_validate_json(budget, extra="ignore"),
                ComputeSpec.model_validate_json(compute, extra="ignore"))
    except (ValueError, RecursionError):
        return None


def _read_spec_in_part(raw: Mapping[str, Any]) -> FineTuneJobSpec | None:
    """The spec without unreadable parts; None if the operator needs one of them."""
    try:
        return FineTuneJobSpec.model_validate_json(json.dumps(raw), extra="ignore")
    except RecursionError:
        return None
    except ValidationError as error:
        paths = {tuple(map(str, fault["loc"])) for fault in error.errors()}
    rest: Any = raw
    for path in paths:
        depth = _REMOVABLE_DEPTH.get(path[0]) if path else None
        if depth is None or len(path) < depth:
            return None
        rest = _without(rest, path[:depth])
    return None if rest == raw else _read_spec_in_part(rest)


def _without(raw: Any, path: tuple[str, ...]) -> Any:
    """A copy of an object without the field at a path."""
    if not isinstance(raw, dict) or path[0] not in raw:
        return raw
    others = {key: value for key, value in raw.items() if key != path[0]}
    return others if len(path) == 1 else {**others, path[0]: _without(raw[path[0]], path[1:])}
