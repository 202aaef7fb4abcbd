"""Which jobs are being checked and which wait for their turn, so that checks are bounded and no wait is a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.status import ConditionType, FineTuneJobStatus, Phase

from finetune_operator.decide.conditions import progressing
from finetune_operator.decide.failure import CHECKING, RETRYING, WAITING_FOR_CHECK
from finetune_operator.observed.observation import Checks

Key = tuple[str, str]


class CheckTurns:
    """What the jobs' own statuses say of their checks, and whose turn comes next. One thread only: the event loop's."""

    def __init__(self) -> None:
        self._checked: dict[Key, str] = {}
        self._waiting: dict[str, dict[Key, None]] = {}
        self._changed = False

    def note(self, key: Key, reason: str | None) -> None:
        """Take in what is told of a job, or is about to be: the reason where its check is there or waits, else None."""
        waits = key in self._waiting.get(key[0], {})
        if reason == (WAITING_FOR_CHECK if waits else self._checked.get(key)):
            return
        self._changed = True  # A turn has become free; or one is taken, and there may be another.
        self._checked.pop(key, None)
        if waits:
            others = self._waiting.pop(key[0])
            del others[key]
            if others:
                self._waiting[key[0]] = others  # Behind the other namespaces, which take turns.
        if reason == WAITING_FOR_CHECK:
            self._waiting.setdefault(key[0], {})[key] = None
        elif reason is not None:
            self._checked[key] = reason

    def beside(self, key: Key) -> Checks:
        """The checks of other jobs than one."""
        others = [(one, reason) for one, reason in self._checked.items() if one != key]
        return Checks(working=sum(reason == CHECKING for _, reason in others),
                      in_namespace=sum(one[0] == key[0] for one, _ in others))

    def next(self) -> tuple[Key, ...]:
        """The first that waits in each namespace, where something has changed since this was asked for last."""
        changed, self._changed = self._changed, False
        return tuple(next(iter(waiting)) for waiting in self._waiting.values()) if changed else ()


def reason_of(status: FineTuneJobStatus) -> str | None:
    """What is told of a job's check; None where it has none that is there or waits."""
    told = progressing(status)
    over = status.completion_time is not None
    return None if over else _of_check(status.phase, told.reason if told else None)


def reason_in(job: Mapping[str, Any]) -> str | None:
    """The same of a job as it is stored. One that is being deleted, and waits for a finalizer, takes no turn."""
    status = job.get("status") or {}
    if "deletionTimestamp" in job["metadata"] or "completionTime" in status:
        return None
    told = (one.get("reason") for one in status.get("conditions") or () if one.get("type") == ConditionType.PROGRESSING)
    return _of_check(status.get("phase"), next(told, None))


def _of_check(phase: str | None, reason: str | None) -> str | None:
    return reason if phase == Phase.PREFLIGHT and reason != RETRYING else None
