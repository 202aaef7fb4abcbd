"""An attempt: its Job and the pods of that Job. A preflight check and a report are read in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.names import ATTEMPT_LABEL
from finetune_operator.observed.pod import PodView
from finetune_operator.observed.timestamps import EPOCH, time_of


@dataclass(frozen=True)
class AttemptView:
    """One attempt: a Job and its pods.

    Attributes:
        suspended: whether the Job waits for Kueue to admit it, for the first time or after a preemption.
        suspended_at: since when it waits.
        unsuspended_at: since when it need not wait: its creation if no queue admits it; None if that is not known yet.
        failed: reason and message of the Job's Failed condition.
        finished_at: when the Job was finished.
        uid: of the Job; empty if the Job no longer exists.
        wanted_pods: number of pods that the Job must have.
        pod_creation_error: the apiserver's message to the Job controller, which cannot create a pod; None if nobody
            asked for it or there is none.
    """

    number: int
    name: str
    created_at: datetime
    suspended: bool
    suspended_at: datetime | None
    unsuspended_at: datetime | None
    deleting: bool
    complete: bool
    failed: tuple[str, str] | None
    finished_at: datetime | None
    pods: tuple[PodView, ...]
    uid: str = ""
    wanted_pods: int = 1
    pod_creation_error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the Job is Complete or Failed: then none of its pods runs."""
        return self.complete or self.failed is not None

    @property
    def present_pods(self) -> tuple[PodView, ...]:
        """The pods that exist."""
        return tuple(pod for pod in self.pods if not pod.deleted)


def view_attempt(raw: Mapping[str, Any], pods: Iterable[PodView], label: str = ATTEMPT_LABEL) -> AttemptView:
    """Read the Job of an attempt or of a check.

    Args:
        raw: the Job.
        pods: its pods.
        label: the label that holds the number: PREFLIGHT_LABEL for a check, whose number is a generation; REPORT_LABEL.
    """
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    holding = {kind: condition for kind, condition in conditions.items() if condition.get("status") == "True"}
    ended = holding.get("Failed") or holding.get("Complete")
    failed = holding.get("Failed")
    created_at = time_of(metadata["creationTimestamp"]) or EPOCH
    suspended = conditions.get("Suspended")
    unsuspended_at = created_at if suspended is None else time_of(suspended.get("lastTransitionTime"))
    return AttemptView(
        number=int(metadata["labels"][label]),
        name=metadata["name"],
        created_at=created_at,
        suspended=bool(spec.get("suspend")),
        suspended_at=time_of(holding.get("Suspended", {}).get("lastTransitionTime")),
        # The Job controller creates the pods first and then sets Suspended to False.
        unsuspended_at=None if "Suspended" in holding else unsuspended_at,
        deleting="deletionTimestamp" in metadata,
        complete="Complete" in holding,
        failed=(failed.get("reason", ""), failed.get("message", "")) if failed else None,
        finished_at=time_of(ended.get("lastTransitionTime")) if ended else None,
        pods=tuple(sorted(pods, key=lambda pod: (pod.index, pod.name))),
        uid=metadata["uid"], wanted_pods=spec.get("parallelism", 1),
    )
