"""How the status and the events report a decision. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NewType

from finetune_api.reasons import Outcome, Reason
from finetune_api.status import Condition, ConditionStatus, ConditionType, FineTuneJobStatus, Phase
from finetune_api.values.printable import printable

_LONGEST_MESSAGE = 4096
_TERMINAL = {Phase.SUCCEEDED, Phase.FAILED}
_WARNINGS = frozenset({Reason.UNSCHEDULABLE, Reason.CANNOT_START, Reason.RETRYING})
"""Reasons of Warning events about a job that continues."""

StoredReason = NewType("StoredReason", str)
"""A reason that was read from a status. Another release may have written it, so it may be none of the enum's."""

AnyReason = Reason | Outcome | StoredReason


@dataclass(frozen=True)
class ConditionReport:
    """What the conditions say after a decision.

    Attributes:
        phase: the job's phase.
        reason: one word, for programs; a plain string is none, so that every reason is one of the API.
        message: one or two sentences, for people: what happened and what to do.
        admitted: whether the job has the node and the quota that it needs; None if that is not known yet.
        valid: whether the operator can run the spec.
    """

    phase: Phase
    reason: AnyReason
    message: str
    admitted: bool | None = None
    valid: bool = True


@dataclass(frozen=True)
class EventRecord:
    """An Event to write.

    Attributes:
        kind: `Normal` or `Warning`.
        key: part of the Event's identity. Two records that are equal in all four fields are the same Event.
    """

    kind: str
    reason: AnyReason
    message: str
    key: str


def set_conditions(status: FineTuneJobStatus, report: ConditionReport, generation: int, now: datetime
                   ) -> FineTuneJobStatus:
    """The status with the phase and the conditions of a report.

    Args:
        status: the status before.
        report: what the conditions say.
        generation: the generation of the spec that was observed.
        now: the transition time of conditions whose status changes.
    """
    conditions = tuple(_conditions(status, report, generation, now))
    return status.model_copy(update={
        "phase": report.phase, "conditions": conditions, "observed_generation": generation})


def _conditions(status: FineTuneJobStatus, report: ConditionReport, generation: int, now: datetime
                ) -> Iterator[Condition]:
    previous = {condition.type: condition for condition in status.conditions}
    # Pods, kubelets and events may have written parts of the message.
    text = printable(report.message)
    message = text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"

    def condition(kind: ConditionType, holds: bool, reason: AnyReason = report.reason, message: str = message
                  ) -> Condition:
        value = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        before = previous.get(kind)
        # Conditions of generation 0 are the apiserver's defaults for a job that no operator has observed.
        same = before is not None and before.observed_generation and before.status == value
        since = before.last_transition_time if before and same else now
        return Condition(type=kind, status=value, reason=reason, message=message, observed_generation=generation,
                         last_transition_time=since)

    finished = report.phase in _TERMINAL
    if report.valid:
        yield condition(ConditionType.VALIDATED, True, Reason.VALID, "the spec can be run")
    else:
        yield condition(ConditionType.VALIDATED, False)
    if report.admitted:
        yield condition(ConditionType.ADMITTED, True, Reason.ADMITTED,
                        "the job has the nodes and the quota that it needs")
    elif report.admitted is not None:
        yield condition(ConditionType.ADMITTED, False)
    elif finished and ConditionType.ADMITTED in previous:
        yield previous[ConditionType.ADMITTED]
    working = not finished and report.valid and report.phase is not Phase.SUSPENDED
    yield condition(ConditionType.PROGRESSING, working)
    yield condition(ConditionType.RECONCILING, working)
    if finished:
        yield condition(ConditionType.FINISHED, True)
        yield condition(ConditionType.SUCCEEDED, report.phase is Phase.SUCCEEDED)
        yield condition(ConditionType.FAILED, report.phase is Phase.FAILED)
    if report.phase is Phase.FAILED or not report.valid:
        yield condition(ConditionType.STALLED, True)


def with_observed_generation(status: FineTuneJobStatus, generation: int) -> FineTuneJobStatus:
    """The same status for a later generation. kstatus and Argo CD wait until the status has the newest generation."""
    if status.observed_generation == generation:
        return status
    by_type = {one.type: one.model_copy(update={"observed_generation": generation}) for one in status.conditions}
    return status.model_copy(update={"conditions": tuple(by_type.values()), "observed_generation": generation})


def events_of(old: FineTuneJobStatus, new: FineTuneJobStatus) -> tuple[EventRecord, ...]:
    """The events of a change of status: one if the reason of Progressing or its generation changes."""
    after, before = progressing_condition(new), progressing_condition(old)
    if after is None or (before and before.reason == after.reason
                         and before.observed_generation == after.observed_generation):
        return ()
    attempt = new.attempts[-1].number if new.attempts else 0
    stalled = any(one.type is ConditionType.STALLED for one in new.conditions)
    warning = new.phase is Phase.FAILED or stalled or after.reason in _WARNINGS
    return (EventRecord("Warning" if warning else "Normal", StoredReason(after.reason), after.message,
                        f"{after.observed_generation}/{attempt}"),)


def progressing_condition(status: FineTuneJobStatus) -> Condition | None:
    """The Progressing condition, which always has the newest reason and message."""
    return next((one for one in status.conditions if one.type is ConditionType.PROGRESSING), None)
