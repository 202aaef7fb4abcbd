"""Conditions, phase and events: how a decision is told. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from finetune_api.printable import printable
from finetune_api.status import Condition, ConditionStatus, ConditionType, FineTuneJobStatus, Phase

_LONGEST = 4096
_TERMINAL = {Phase.SUCCEEDED, Phase.FAILED}


@dataclass(frozen=True)
class Told:
    """What is to be told: the phase, and one word and one sentence about it.

    Attributes:
        admitted: whether the job has what it runs on; None where that is not known yet.
        valid: whether the spec can be run.
    """

    phase: Phase
    reason: str
    message: str
    admitted: bool | None = None
    valid: bool = True


@dataclass(frozen=True)
class Note:
    """An event to be written: `Normal` or `Warning`, with reason and message; `key` tells repetitions from new ones."""

    kind: str
    reason: str
    message: str
    key: str


def tell(status: FineTuneJobStatus, told: Told, generation: int, now: datetime) -> FineTuneJobStatus:
    """The status with phase and conditions as told. A condition's time changes only with its status."""
    old = {condition.type: condition for condition in status.conditions}
    words = printable(told.message)  # A pod, a kubelet or an event may have said some of it.
    message = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"

    def condition(kind: ConditionType, holds: bool, reason: str, words: str) -> Condition:
        value = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        before = old.get(kind)
        # Those of generation 0 are the apiserver's own, of a job that nobody had looked at.
        same = before is not None and before.observed_generation and before.status == value
        since = before.last_transition_time if before and same else now
        return Condition(type=kind, status=value, reason=reason, message=words, observed_generation=generation,
                         last_transition_time=since)

    def conditions() -> Iterator[Condition]:
        finished = told.phase in _TERMINAL
        yield condition(ConditionType.VALIDATED, told.valid, "Valid" if told.valid else told.reason,
                        "the spec can be run" if told.valid else message)
        if told.admitted is not None:
            yield condition(ConditionType.ADMITTED, told.admitted, "Admitted" if told.admitted else told.reason,
                            "the job has what it runs on" if told.admitted else message)
        elif finished and ConditionType.ADMITTED in old:
            yield old[ConditionType.ADMITTED]
        working = not finished and told.valid and told.phase is not Phase.SUSPENDED
        yield condition(ConditionType.PROGRESSING, working, told.reason, message)
        yield condition(ConditionType.RECONCILING, working, told.reason, message)
        if finished:
            yield condition(ConditionType.FINISHED, True, told.reason, message)
            yield condition(ConditionType.SUCCEEDED, told.phase is Phase.SUCCEEDED, told.reason, message)
            yield condition(ConditionType.FAILED, told.phase is Phase.FAILED, told.reason, message)
        if told.phase is Phase.FAILED or not told.valid:
            yield condition(ConditionType.STALLED, True, told.reason, message)

    return status.model_copy(update={
        "phase": told.phase, "conditions": tuple(conditions()), "observed_generation": generation})


def looked_at(status: FineTuneJobStatus, generation: int) -> FineTuneJobStatus:
    """The same status, told of a later generation: kstatus and Argo CD wait until it is."""
    if status.observed_generation == generation:
        return status
    same = {one.type: one.model_copy(update={"observed_generation": generation}) for one in status.conditions}
    return status.model_copy(update={"conditions": tuple(same.values()), "observed_generation": generation})


def notes(old: FineTuneJobStatus, new: FineTuneJobStatus) -> tuple[Note, ...]:
    """The events of a change of status: one wherever what is being told has another reason."""
    told, before = progressing(new), progressing(old)
    if told is None or (before and before.reason == told.reason and before.observed_generation
                        == told.observed_generation):
        return ()
    attempt = new.attempts[-1].number if new.attempts else 0
    warning = new.phase is Phase.FAILED or any(one.type is ConditionType.STALLED for one in new.conditions) or (
        told.reason in {"Unschedulable", "CannotStart", "Retrying"})
    return (Note("Warning" if warning else "Normal", told.reason, told.message,
                 f"{told.observed_generation}/{attempt}"),)


def progressing(status: FineTuneJobStatus) -> Condition | None:
    """The condition that has what was told last."""
    return next((one for one in status.conditions if one.type is ConditionType.PROGRESSING), None)
