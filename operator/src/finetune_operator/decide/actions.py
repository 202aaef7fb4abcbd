"""The result of a decision: actions on the cluster, a status, events, and when to decide again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_api.status import FineTuneJobStatus

from finetune_operator.decide.conditions import EventRecord
from finetune_operator.manifests.child import Manifest


@dataclass(frozen=True)
class Create:
    """Create an object that never changes. If an object of this name and this owner exists, nothing is done."""

    manifest: Manifest


@dataclass(frozen=True)
class Apply:
    """Apply an object with server-side apply."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete an object after everything that it owns."""

    api_version: str
    kind: str
    name: str


Action = Create | Apply | Delete


def delete_job(name: str) -> Delete:
    """Delete the Job of an attempt or of a preflight check."""
    return Delete("batch/v1", "Job", name)


@dataclass(frozen=True)
class Plan:
    """What to do: the actions in their order, then one write of the status, then the events.

    Attributes:
        requeue_after: decide again after this time, even if nothing happens; None to wait for the next change.
        needs_earlier_run: the run configuration of an earlier attempt must be read first. Read it and plan again.
    """

    status: FineTuneJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[EventRecord, ...] = ()
    requeue_after: timedelta | None = None
    needs_earlier_run: bool = False
