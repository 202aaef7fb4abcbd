"""How many preflight checks may exist at once, and whose check comes next.

A waiting job is planned again only after a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase

from finetune_operator.decide.conditions import progressing_condition
from finetune_operator.observed.observation import OtherPreflights
from finetune_operator.settings import PreflightSettings

Key = tuple[str, str]
"""Namespace and name of a job."""


class PreflightTurns:
    """The state of every job's check, as the job's own status says. For one thread only: the event loop's."""

    def __init__(self) -> None:
        self._reasons: dict[Key, str] = {}
        self._waiting: dict[str, dict[Key, None]] = {}
        self._changed = False

    def record(self, key: Key, reason: str | None) -> None:
        """Take in the state of a job's check.

        Args:
            key: the job.
            reason: the reason that its conditions have, or will have in a moment; None if it has no check and waits for
                none.
        """
        waits = key in self._waiting.get(key[0], {})
        if reason == (Reason.WAITING_FOR_CHECK if waits else self._reasons.get(key)):
            return
        self._changed = True  # A turn is free, or one was taken and there may be another.
        self._reasons.pop(key, None)
        if waits:
            others = self._waiting.pop(key[0])
            del others[key]
            if others:
                self._waiting[key[0]] = others  # Behind the other namespaces: namespaces take turns.
        if reason == Reason.WAITING_FOR_CHECK:
            self._waiting.setdefault(key[0], {})[key] = None
        elif reason is not None:
            self._reasons[key] = reason

    def others_of(self, key: Key) -> OtherPreflights:
        """How many checks of other jobs exist."""
        others = [(one, reason) for one, reason in self._reasons.items() if one != key]
        return OtherPreflights(running=sum(reason == Reason.PREFLIGHT for _, reason in others),
                               in_namespace=sum(one[0] == key[0] for one, _ in others))

    def next_in_turn(self) -> tuple[Key, ...]:
        """The first waiting job of each namespace; empty if nothing has changed since the last call."""
        changed, self._changed = self._changed, False
        return tuple(next(iter(waiting)) for waiting in self._waiting.values()) if changed else ()


def why_no_turn(others: OtherPreflights, settings: PreflightSettings) -> str | None:
    """Why no further check may be created, in words that stay the same during the wait; None if one may."""
    if others.in_namespace >= settings.parallelism_per_namespace:
        return (f"the check before the start waits for its turn: {settings.parallelism_per_namespace} other checks "
                "exist in this namespace (preflight.parallelismPerNamespace in the operator's settings)")
    if others.running >= settings.parallelism:
        return (f"the check before the start waits for its turn: {settings.parallelism} other checks run "
                "(preflight.parallelism in the operator's settings)")
    return None


def preflight_reason(status: FineTuneJobStatus) -> str | None:
    """The reason that a job's conditions have for its check; None if it has no check and waits for none."""
    condition = progressing_condition(status)
    finished = status.completion_time is not None
    return None if finished else _preflight_reason(status.phase, condition.reason if condition else None)


def stored_preflight_reason(job: Mapping[str, Any]) -> str | None:
    """The same for a stored job. A job that is being deleted, and waits for a finalizer, takes no turn."""
    status = job.get("status") or {}
    if "deletionTimestamp" in job["metadata"] or "completionTime" in status:
        return None
    reasons = (one.get("reason") for one in status.get("conditions") or ()
               if one.get("type") == ConditionType.PROGRESSING)
    return _preflight_reason(status.get("phase"), next(reasons, None))


def _preflight_reason(phase: str | None, reason: str | None) -> str | None:
    return reason if phase == Phase.PREFLIGHT and reason != Reason.RETRYING else None
