"""The decision about an attempt that is stopped: by a suspend, or by a queue that takes back its quota. No cluster."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api.messages import Outcome
from finetune_api.status import Retries

from tests.operator.objects import (
    ADAPTER,
    FINAL,
    actions_of,
    attempt,
    brief_records,
    created,
    decide,
    raw_attempt,
    raw_job,
    raw_pod,
    reported,
    result,
    started,
    two_passes,
)

QUEUE = {"compute": {"queueName": "team-queue"}}


def test_suspend_deletes_the_attempt_and_resume_makes_the_next():
    suspend = {"runPolicy": {"suspend": True}}
    running = [raw_attempt(), raw_pod(running=True)]
    asked = decide(raw_job(started(), **suspend), *running, at=30)
    assert actions_of(asked) == ["delete Job tune-1"]
    assert reported(asked)[1] == "Stopping"
    leaving = [raw_attempt(deleting=True), raw_pod(running=True)]
    assert actions_of(decide(raw_job(asked.status, **suspend), *leaving, at=31)) == []
    gone = [raw_attempt(deleting=True), raw_pod(exit_code=75, said=result(Outcome.STOPPED, step=3), at=40)]
    suspended = decide(raw_job(asked.status, **suspend), *gone, at=41)
    assert suspended.status.phase == "Suspended"
    assert suspended.status.attempts[0].reason == "Stopped"
    assert suspended.status.retries == Retries()
    assert decide(raw_job(suspended.status, **suspend), at=100).status == suspended.status
    assert "create Job tune-2" in actions_of(decide(raw_job(suspended.status), at=200))


def test_a_preempted_attempt_ends_and_the_next_waits_in_the_queue_once_its_job_is_gone():
    said = result(Outcome.STOPPED, "checkpointed", step=7, checkpoint_step=7)
    stopping = [raw_attempt(suspended=True), raw_pod(running=True, leaving=True)]
    leaving = decide(raw_job(started(), **QUEUE), *stopping, at=50)
    assert reported(leaving)[1] == "Preempted"
    assert "team-queue takes back the quota" in reported(leaving)[2]
    assert actions_of(leaving) == [], "first the status: the deletion must not look like somebody else's"
    assert actions_of(decide(raw_job(leaving.status, **QUEUE), *stopping, at=51)) == ["delete Job tune-1"]
    admitted = [raw_attempt(), stopping[1]]
    assert actions_of(decide(raw_job(leaving.status, **QUEUE), *admitted, at=51)) == ["delete Job tune-1"]
    over = [raw_attempt(suspended=True), raw_pod(exit_code=75, said=said, leaving=True)]
    ended, following = two_passes(leaving.status, *over, **QUEUE)
    assert reported(ended)[1] == "Retrying"
    assert "preempted" in reported(ended)[2]
    assert brief_records(ended) == (attempt(reason="Preempted", end=60, resumedFromStep=0, lastStep=7),)
    assert ended.status.retries == Retries()
    assert actions_of(following) == ["delete Job tune-1"], "Kueue could start it again beside the next"
    again = [raw_attempt(), raw_pod(running=True)]
    assert actions_of(decide(raw_job(ended.status, **QUEUE), *again, at=71)) == ["delete Job tune-1"], "and it has"
    waits = [raw_attempt(deleting=True), raw_pod(running=True, leaving=True)]
    missed = decide(raw_job(leaving.status, **QUEUE), at=70)
    assert (missed.status.attempts[0].reason, missed.status.retries.counted) == ("Preempted", 0)
    assert actions_of(decide(raw_job(ended.status, **QUEUE), *waits, at=72)) == []
    assert created(decide(raw_job(ended.status, **QUEUE), at=73), "Job")["spec"]["suspend"] is True


def test_a_preempted_attempt_costs_nothing_afterwards_and_counts_only_without_progress():
    pulling = raw_pod(waiting=("ContainerCreating", ""), leaving=True)
    decided = decide(raw_job(started(), **QUEUE), raw_attempt(suspended=True, at=36), gone=(pulling,), at=4000)
    assert brief_records(decided) == (attempt(reason="Preempted", end=36),)
    assert decided.status.cost.spent == Decimal("0.0100")
    assert decided.status.retries == Retries(without_progress=1)


@pytest.mark.parametrize(("code", "outcome"), FINAL)
def test_a_preemption_hides_no_failure(code, outcome):
    decided = decide(raw_job(started(), **QUEUE), raw_attempt(suspended=True),
                     raw_pod(exit_code=code, said=result(outcome, "why")))
    assert reported(decided) == ("Failed", str(outcome), "why")


def test_a_job_that_was_just_admitted_does_not_count_as_preempted():
    new = [raw_attempt(suspended=True), raw_pod(running=True)]  # The Job's state is older than the pod's.
    decided = decide(raw_job(started(), **QUEUE), *new, at=5)
    assert actions_of(decide(raw_job(decided.status, **QUEUE), *new, at=6)) == []


def test_an_eviction_before_a_job_had_a_node_is_reported_as_waiting():
    evicted = raw_pod(unschedulable="0/1 nodes", leaving=True)
    waits = decide(raw_job(started(), **QUEUE), raw_attempt(suspended=True), evicted)
    assert reported(waits)[1] == "WaitingForQuota"
    waits = decide(raw_job(waits.status, **QUEUE), raw_attempt(suspended=True), gone=(evicted,))
    assert reported(waits)[1] == "WaitingForQuota"
    pulls = raw_pod(waiting=("ContainerCreating", ""))
    pulls["metadata"] |= {"uid": "other", "name": "other"}
    told = decide(raw_job(waits.status, **QUEUE), raw_attempt(), pulls, gone=(evicted,), at=10)
    assert reported(told)[1] == "Starting"


def test_a_job_that_was_just_admitted_is_not_reported_without_a_pod():
    job = raw_attempt(suspended=True, at=0)
    job["spec"]["suspend"] = False  # Its condition says so later.
    assert reported(decide(raw_job(started(), **QUEUE), job, at=600))[1] == "Started"
    job["status"]["conditions"][-1] |= {"status": "False", "lastTransitionTime": job["metadata"]["creationTimestamp"]}
    assert reported(decide(raw_job(started(), **QUEUE), job, at=600))[1] == "CannotStart"


def test_a_result_that_was_published_during_a_preemption_counts():
    done = raw_pod(exit_code=0, said=result(Outcome.SUCCEEDED, adapter=ADAPTER), leaving=True)
    for deleted in ({"gone": ()}, {"gone": (done,)}):
        pods = () if deleted["gone"] else (done,)
        decided = decide(raw_job(started(), **QUEUE), raw_attempt(suspended=True), *pods, **deleted, at=100)
        assert decided.status.phase == "Succeeded"


def test_a_preemption_that_comes_too_late_waits_for_the_job_to_be_complete():
    done = raw_pod(exit_code=0, said=result(Outcome.SUCCEEDED, adapter=ADAPTER))
    decided = decide(raw_job(started(), **QUEUE), raw_attempt(suspended=True), done)
    assert decided.status.attempts[0].end_time is None
    assert decide(raw_job(started(), **QUEUE), raw_attempt(ended="Complete"), done).status.phase == "Succeeded"


def test_a_suspend_of_a_preempted_job_removes_what_the_queue_could_start():
    over = [raw_attempt(suspended=True), raw_pod(exit_code=75, said=result(Outcome.STOPPED), leaving=True)]
    suspend = {**QUEUE, "runPolicy": {"suspend": True}}
    ended, following = two_passes(started(), *over, **suspend)
    assert actions_of(ended) == actions_of(following) == ["delete Job tune-1"]
    assert decide(raw_job(ended.status, **suspend), at=80).status.phase == "Suspended"


def test_a_suspend_whose_result_was_not_observed_does_not_count():
    decided = decide(raw_job(started(attempts=(attempt(),)), runPolicy={"suspend": True}), at=50)
    assert decided.status.phase == "Suspended"
    assert decided.status.retries == Retries()


def test_a_suspend_that_comes_too_late_changes_nothing():
    told = result(Outcome.SUCCEEDED, "done", adapter=ADAPTER)
    decided = decide(raw_job(started(), runPolicy={"suspend": True}), raw_attempt(ended="Complete"),
                     raw_pod(exit_code=0, said=told))
    assert decided.status.phase == "Succeeded"
