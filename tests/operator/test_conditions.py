"""The conditions after a decision: people, kubectl and Argo CD rely on them."""

from __future__ import annotations

import json

import pytest
from finetune_api.status import Condition, Phase
from finetune_api.values.printable import printable
from finetune_operator.cluster.reconcile.status_document import dump_status
from finetune_operator.decide.conditions import ConditionReport, set_conditions, with_observed_generation
from finetune_operator.observed.job import view_job

from tests.operator.objects import NOW, attempt, decide, raw_attempt, raw_job, raw_pod, started

EMPTY = view_job(raw_job()).status


def told(phase, reason="Reason", before=EMPTY):
    return set_conditions(before, ConditionReport(phase, reason, "what happened"), 1, NOW)


def of(status, kind) -> Condition | None:
    return next((one for one in status.conditions if one.type == kind), None)


@pytest.mark.parametrize("phase", list(Phase))
def test_finished_is_true_after_success_and_failure_and_absent_otherwise(phase):
    finished = of(told(phase, "BadData"), "Finished")
    if phase not in (Phase.SUCCEEDED, Phase.FAILED):
        assert finished is None
        return
    assert (finished.status, finished.reason, finished.message) == ("True", "BadData", "what happened")


def test_every_condition_type_appears_once_whatever_the_status_had_before():
    status = EMPTY
    for phase in (*Phase, *reversed(Phase)):
        status = told(phase, before=status.model_copy(update={"conditions": status.conditions * 2}))
        types = [one.type for one in status.conditions]
        assert len(types) == len(set(types))
    doubled = status.model_copy(update={"conditions": status.conditions * 2})
    assert with_observed_generation(doubled, 2).conditions == with_observed_generation(status, 2).conditions


def test_quoted_messages_contain_no_terminal_commands():
    says = "\x1b]0;mine\x07" * 400
    waits = decide(raw_job(started()), raw_attempt(), raw_pod(unschedulable=says), at=10)
    ended = decide(raw_job(started(attempts=(attempt(),))), raw_attempt(ended="Failed"),
                   raw_pod(ended_by=("Evicted", says)), at=100)
    for decided in (waits, ended):
        text = json.dumps(dump_status(decided.status), ensure_ascii=False) + str(decided.events)
        assert "\\\\u001b]0;mine" in text
        assert printable(text) == text
    assert len(ended.status.attempts[0].message) == 1024
