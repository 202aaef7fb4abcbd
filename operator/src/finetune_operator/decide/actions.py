"""What a decision consists of: objects to make, apply and delete, a status, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_api.status import FineTuneJobStatus

from finetune_operator.decide.conditions import Note
from finetune_operator.manifests.child import Manifest


@dataclass(frozen=True)
class Create:
    """Make an object that is never changed again; one that is there already and ours is as good."""

    manifest: Manifest


@dataclass(frozen=True)
class Apply:
    """Server-side apply an object."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete an object, and what it owns before it."""

    api_version: str
    kind: str
    name: str


Action = Create | Apply | Delete


def delete_job(name: str) -> Delete:
    """Delete an attempt's Job, or a check's."""
    return Delete("batch/v1", "Job", name)


@dataclass(frozen=True)
class Plan:
    """What is to be done: the actions in their order, then one status write, then the events.

    Attributes:
        requeue_after: look again then, even if nothing happens; None for only when something does.
        needs_earlier_run: what an earlier attempt got has to be read; then it is decided again.
    """

    status: FineTuneJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Note, ...] = ()
    requeue_after: timedelta | None = None
    needs_earlier_run: bool = False
