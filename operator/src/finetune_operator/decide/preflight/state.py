"""What every question about a job's preflight check depends on, and how its answer is reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.reasons import Outcome, Reason
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import Phase, PreflightStatus

from finetune_operator.decide.actions import Action, Plan
from finetune_operator.decide.conditions import ConditionReport, StoredReason, set_conditions
from finetune_operator.decide.preflight.removal import remove_preflights
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Settings

_LONGEST_MESSAGE = 4096


@dataclass(frozen=True)
class PreflightState:
    """A job that has not started and waits for its check.

    Attributes:
        record: what the status says about the check of this generation of the spec.
    """

    observation: Observation
    spec: FineTuneJobSpec
    settings: Settings
    now: datetime
    record: PreflightStatus


def with_record(state: PreflightState, **changes: Any) -> PreflightState:
    """The same state with a changed record."""
    return replace(state, record=state.record.model_copy(update=changes))


def report_preflight(state: PreflightState, reason: Reason, message: str, actions: tuple[Action, ...] = (),
                     requeue_after: timedelta | None = None) -> Plan:
    """The plan that reports in the conditions how the check goes."""
    return _plan(state, ConditionReport(Phase.PREFLIGHT, reason, message), actions, requeue_after)


def refuse_spec(state: PreflightState, reason: Reason | Outcome, message: str) -> Plan:
    """The plan that refuses the spec for what the check found."""
    return repeat_refusal(with_record(state, refused=str(reason), message=message[:_LONGEST_MESSAGE]))


def repeat_refusal(state: PreflightState) -> Plan:
    """The plan that reports a refusal in the record. It stands until the spec is edited: that is a new generation."""
    record = state.record
    reason = StoredReason(record.refused or Reason.BAD_CONFIG)
    report = ConditionReport(Phase.PENDING, reason, record.message or "", valid=False)
    return _plan(state, report, remove_preflights(state.observation))


def _plan(state: PreflightState, report: ConditionReport, actions: tuple[Action, ...],
          requeue_after: timedelta | None = None) -> Plan:
    job = state.observation.job
    status = job.status.model_copy(update={"preflight": state.record})
    return Plan(set_conditions(status, report, job.generation, state.now), actions, requeue_after=requeue_after)
