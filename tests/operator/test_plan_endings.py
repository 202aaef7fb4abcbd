"""The decision after the end of an attempt and of a job, as a table of observations: no cluster, no clock."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api.messages import Limits, Outcome, ProgressMessage, Stage
from finetune_api.status import Phase, Progress, Retries
from finetune_operator import names
from finetune_operator.decide.stages.undecidable import plan_after_refusal
from finetune_operator.manifests.config_maps import limits_map
from finetune_operator.observed.job import view_job

from tests.operator.objects import (
    ADAPTER,
    FINAL,
    NOW,
    SETTINGS,
    actions_of,
    attempt,
    brief_records,
    conditions,
    created,
    decide,
    raw_attempt,
    raw_job,
    raw_pod,
    reported,
    result,
    run_json,
    started,
    two_passes,
)

# How it ends

def test_a_success_is_reported_with_everything_that_is_known():
    told = result(Outcome.SUCCEEDED, "trained 10 steps", step=10, total_steps=10, adapter=ADAPTER)
    decided = decide(raw_job(started()), raw_attempt(ended="Complete"), raw_pod(exit_code=0, said=told, at=1800),
                     at=1801)
    assert reported(decided) == ("Succeeded", "Succeeded", "trained 10 steps")
    assert conditions(decided) == {"Validated": "True", "Progressing": "False", "Reconciling": "False",
                                   "Finished": "True", "Succeeded": "True", "Failed": "False"}
    assert decided.status.adapter == ADAPTER
    assert decided.status.cost.spent == Decimal("0.5000")
    assert decided.status.completion_time is not None


def test_a_missed_gate_fails_and_keeps_the_adapter():
    told = result(Outcome.QUALITY_GATE, "a gain of 0.1", adapter=ADAPTER)
    decided = decide(raw_job(started()), raw_attempt(ended="Complete"), raw_pod(exit_code=0, said=told))
    assert reported(decided)[:2] == ("Failed", "QualityGate")
    assert decided.status.adapter == ADAPTER
    assert conditions(decided)["Stalled"] == "True"


@pytest.mark.parametrize(("code", "outcome"), FINAL)
def test_a_failure_that_no_retry_can_help_fails_at_once_with_the_trainers_message(code, outcome):
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"),
                     raw_pod(exit_code=code, said=result(outcome, "why")))
    assert reported(decided) == ("Failed", str(outcome), "why")


@pytest.mark.parametrize(("code", "_"), FINAL)
def test_without_a_message_of_the_trainer_the_exit_code_is_explained(code, _):
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"), raw_pod(exit_code=code, said="gibberish"))
    assert decided.status.phase == "Failed"
    assert len(reported(decided)[2]) > 20


def test_out_of_host_memory_names_the_field():
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"), raw_pod(exit_code=137, oom=True))
    assert reported(decided)[:2] == ("Failed", "HostOutOfMemory")
    assert "compute.memory" in reported(decided)[2]


def test_out_of_accelerator_memory_is_retried_once_with_the_smallest_plan():
    oom = [raw_attempt(ended="Failed"), raw_pod(exit_code=71, said=result(Outcome.OUT_OF_MEMORY, "too little"))]
    ended, following = two_passes(started(), *oom)
    assert reported(ended)[:2] == ("Starting", "Retrying")
    content = run_json(following)
    assert (content["spec"]["training"]["microBatchSize"], content["spec"]["training"]["gradientCheckpointing"]) == (
        1, "enabled")
    assert content["specHash"] == started().spec_hash, "the result is the same, so its checkpoints are good"
    second = [raw_attempt(2, ended="Failed"),
              raw_pod(2, exit_code=71, said=result(Outcome.OUT_OF_MEMORY, "too little"))]
    final = decide(raw_job(following.status), *oom, *second, at=200)
    assert reported(final)[:2] == ("Failed", "OutOfMemory")
    assert "quantize" in reported(final)[2]


def test_a_stop_is_retried_free_and_at_once():
    stopped = [raw_attempt(ended="Failed"),
               raw_pod(exit_code=75, said=result(Outcome.STOPPED, step=7, checkpoint_step=7),
                       disruption="node drain")]
    ended, following = two_passes(started(), *stopped)
    assert "node drain" in reported(ended)[2]
    assert "create Job tune-2" in actions_of(following)
    assert following.status.retries == Retries()
    assert brief_records(following) == (attempt(reason="Stopped", end=60, resumedFromStep=0, lastStep=7),)


def test_lost_steps_are_recorded():
    records = (attempt(1, "Stopped", end=60, lastStep=7, resumedFromStep=0),)
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=6, total_steps=10, percent=60),
                              resumed_from_step=5)
    decided = decide(raw_job(started(attempts=records)), raw_attempt(2), raw_pod(2, scheduled=70, running=True),
                     progress=message, polled=80, attempt=2, at=80)
    assert decided.status.attempts[1].lost_steps == 2
    assert decided.status.attempts[1].resumed_from_step == 5


def test_ten_free_retries_in_a_row_without_a_newer_checkpoint_are_the_most():
    stop = [raw_attempt(ended="Failed"), raw_pod(exit_code=75, said=result(Outcome.STOPPED))]
    tenth = decide(raw_job(started(retries=Retries(without_progress=9))), *stop, at=70)
    assert reported(tenth)[1] == "Retrying"
    eleventh = decide(raw_job(started(retries=Retries(without_progress=10))), *stop, at=70)
    assert reported(eleventh)[:2] == ("Failed", "NoProgress")
    newer = [stop[0], raw_pod(exit_code=75, said=result(Outcome.STOPPED, checkpoint_step=4))]
    assert decide(raw_job(started(retries=Retries(without_progress=10))), *newer, at=70).status.retries == Retries()


@pytest.mark.parametrize("pods", [
    [raw_pod(exit_code=1)], [raw_pod(exit_code=137)], [raw_pod(exit_code=139)], [], [raw_pod(running=True)],
], ids=["internal", "killed", "crash", "pod gone", "node lost"])
def test_an_unknown_end_is_retried_with_a_growing_delay_up_to_the_limit(pods):
    raws = [raw_attempt(ended="Failed"), *pods]
    ended, following = two_passes(started(), *raws, at=61)
    assert reported(ended)[1] == "Retrying"
    assert ended.status.retries.counted == 1
    assert following.actions == (), "the first retry waits ten seconds"
    end = ended.status.attempts[-1].end_time
    wait = (end - NOW).total_seconds() + 10
    later = decide(raw_job(ended.status), *raws, at=wait)
    assert "create Job tune-2" in actions_of(later)
    last = decide(raw_job(started(retries=Retries(counted=3))), *raws, at=70)
    assert last.status.phase == "Failed"
    assert "retried 3 times, which is runPolicy.backoffLimit" in reported(last)[2]


def test_a_lost_result_is_adopted_by_another_attempt():
    ended, _ = two_passes(started(), raw_attempt(ended="Complete"), raw_pod(exit_code=0, said=""))
    assert "adopts what is published" in reported(ended)[2]


HOUR = {"budget": {"maxDuration": "1h"}}


def test_the_kubelets_deadline_counts_from_the_scheduling_and_the_current_budget_decides():
    pod = created(decide(raw_job(started(), **HOUR)), "Job")["spec"]["template"]["spec"]
    assert pod["activeDeadlineSeconds"] == 3 * 3600
    hung = [raw_attempt(ended="Failed"), raw_pod(exit_code=137, overdue=True, at=3 * 3600)]
    ended, following = two_passes(started(), *hung, at=3 * 3600, **HOUR)
    assert ended.status.attempts[0].reason == "DeadlineExceeded"
    assert reported(following)[:2] == ("Failed", "BudgetSpent")
    raised = decide(raw_job(ended.status, budget={"maxDuration": "9h"}), *hung, at=3 * 3600)
    assert "create Job tune-2" in actions_of(raised)


@pytest.mark.parametrize(("budget", "words"), [
    ({"maxDuration": "1h"}, "budget.maxDuration (1h) is used"), ({"maxCost": "1"}, "budget.maxCost (1 USD) is spent")])
def test_a_trainer_that_ignores_its_budget_is_stopped(budget, words):
    def after(hours, status):
        return decide(raw_job(status, budget=budget), raw_attempt(), raw_pod(running=True), at=hours * 3600,
                      polled=hours * 3600)

    reached = after(1, started(attempts=(attempt(),)))
    before = after(2.9, reached.status)
    assert "delete Job tune-1" not in actions_of(before)
    decided = after(3, before.status)
    assert "delete Job tune-1" in actions_of(decided)
    assert reported(decided)[1] == "Stopping"
    assert words in reported(decided)[2]
    gone = [raw_attempt(deleting=True), raw_pod(exit_code=75, said=result(Outcome.STOPPED), at=3 * 3600)]
    ended = decide(raw_job(decided.status, budget=budget), *gone, at=3 * 3600)
    final = decide(raw_job(ended.status, budget=budget), at=3 * 3600)
    assert reported(final)[:2] == ("Failed", "BudgetSpent")


@pytest.mark.parametrize("budget", [{"maxDuration": "1h"}, {"maxCost": "1.00"}])
def test_a_budget_that_is_lowered_below_what_is_spent_gives_the_trainer_time_to_stop(budget):
    def after(hours, status, budget):
        return decide(raw_job(status, budget=budget), raw_attempt(), raw_pod(running=True), at=hours * 3600,
                      polled=hours * 3600)

    rich = after(10, started(attempts=(attempt(),)), {"maxCost": "99"})
    assert rich.status.cost.used_up_at is None
    lowered = after(10, rich.status, budget)
    assert actions_of(lowered) == ["apply ConfigMap tune-1-11111111-limits"], "the trainer reads it and stops by itself"
    assert "delete Job tune-1" not in actions_of(after(11.9, lowered.status, budget))
    assert "delete Job tune-1" in actions_of(after(12, lowered.status, budget))
    raised = after(11.9, lowered.status, {"maxCost": "99"})
    assert "delete Job tune-1" not in actions_of(after(12, raised.status, budget)), "its time begins anew"


def test_a_pod_whose_node_does_not_answer_is_lost_after_a_while():
    silent = [raw_attempt(), raw_pod(running=True, leaving=True, at=60)]
    waiting = decide(raw_job(started()), *silent, at=359)
    assert waiting.status.attempts[0].end_time is None
    ended, following = two_passes(waiting.status, *silent, at=360)
    assert brief_records(ended) == (attempt(reason="PodLost", end=60),)
    assert actions_of(following) == ["delete Job tune-1"], "a queue keeps its quota until then"
    deleting = [raw_attempt(deleting=True), silent[1]]
    assert "create Job tune-2" in actions_of(decide(raw_job(ended.status), *deleting, at=370))


def test_a_pod_is_lost_even_if_another_one_is_deleted():
    silent = raw_pod(index=0, running=True, leaving=True, at=60)
    forced = raw_pod(index=1, running=True)
    decided = decide(raw_job(started(), compute={"nodes": 2}), raw_attempt(), silent, gone=(forced,), at=360)
    assert brief_records(decided) == (attempt(reason="PodLost", end=60),)


def test_a_success_counts_although_its_job_is_being_deleted():
    done = raw_pod(exit_code=0, said=result(Outcome.SUCCEEDED, adapter=ADAPTER))
    decided = decide(raw_job(started(), runPolicy={"suspend": True}), raw_attempt(deleting=True), done)
    assert decided.status.phase == "Succeeded"
    assert decided.status.adapter == ADAPTER


def test_a_job_that_somebody_keeps_deleting_is_not_retried_forever():
    gone = [raw_attempt(deleting=True), raw_pod(exit_code=1)]
    assert decide(raw_job(started()), *gone).status.retries.counted == 1
    assert decide(raw_job(started(), runPolicy={"suspend": True}), *gone).status.retries.counted == 0


def test_an_accelerator_that_left_the_catalogue_is_not_replaced_by_another():
    status = started(attempts=(attempt(1, "Stopped", end=1),))
    settings = SETTINGS.model_copy(update={"accelerators": {}})
    decided = decide(raw_job(status), at=10, settings=settings)
    assert actions_of(decided) == []
    assert reported(decided)[1] == "CannotStart"
    assert "no longer in the operator's catalogue" in reported(decided)[2]


def test_an_attempt_without_a_pod_is_reported():
    soon = decide(raw_job(started()), raw_attempt(), at=10)
    assert soon.requeue_after.total_seconds() == 30
    late = decide(raw_job(started()), raw_attempt(), at=31)
    assert reported(late)[:2] == ("Starting", "CannotStart")
    assert "kubectl describe job tune-1" in reported(late)[2]


@pytest.mark.parametrize(("waiting", "reason", "words"), [
    (("ImagePullBackOff", 'Back-off pulling image "x"'), "ImagePullFailed", 'Back-off pulling image "x"'),
    (("CreateContainerConfigError", 'secret "s3" not found'), "ContainerConfigError", "Create the Secret"),
    (("ContainerCreating", ""), "StartTimeout", "kubectl describe pod"),
])
def test_a_pod_that_never_starts_fails_the_job_after_a_while_and_the_message_quotes_the_kubelet(waiting, reason, words):
    raws = [raw_attempt(), raw_pod(waiting=waiting)]
    first = decide(raw_job(started()), *raws, at=6)
    assert first.status.phase == "Starting"
    soon = decide(raw_job(first.status), *raws, at=599)
    assert soon.requeue_after.total_seconds() == 1
    late = decide(raw_job(started()), *raws, at=600)
    assert reported(late)[:2] == ("Failed", reason)
    assert words in reported(late)[2]
    assert brief_records(late) == (attempt(reason=reason),)
    assert late.status.cost.spent == Decimal("0.1667"), "the node was held for ten minutes"
    assert actions_of(late) == [], "first the status, then the deletion: a pass that is killed between must not retry"
    assert actions_of(decide(raw_job(late.status), *raws, at=601)) == ["delete Job tune-1"]
    gone = decide(raw_job(late.status), at=660)
    assert brief_records(gone) == (attempt(reason=reason, end=660),)
    assert gone.status.cost.spent == Decimal("0.1833"), "and until its pod was gone"


def test_if_one_node_fails_its_end_explains_the_others():
    raws = [raw_attempt(ended="Failed"), raw_pod(index=0, exit_code=75, said=result(Outcome.STOPPED)),
            raw_pod(index=1, exit_code=65, said=result(Outcome.BAD_DATA, "row 7"))]
    assert reported(decide(raw_job(started(), compute={"nodes": 2}), *raws)) == ("Failed", "BadData", "row 7")


def test_a_job_somebody_deleted_is_a_counted_retry():
    decided = decide(raw_job(started(attempts=(attempt(),))), at=50)
    assert reported(decided)[1] == "Retrying"
    assert decided.status.attempts[0].reason == "JobDeleted"


# Budget

def test_after_its_budget_is_spent_a_job_has_no_further_attempt():
    records = (attempt(1, "Killed", end=3600),)
    decided = decide(raw_job(started(attempts=records), budget={"maxCost": "1.00"}), at=4000)
    assert reported(decided)[:2] == ("Failed", "BudgetSpent")
    assert "budget.maxCost is 1.00 USD; 1.0000 USD are spent" in reported(decided)[2]


def test_a_failure_after_a_checkpoint_says_how_another_job_resumes_from_it():
    for checkpoint, goes_on in ((None, False), (7, True)):
        records = (attempt(1, "Stopped", end=3600, checkpointStep=checkpoint),)
        spent = decide(raw_job(started(attempts=records), budget={"maxCost": "1.00"}), at=4000)
        assert ("runPolicy.resumeFrom: tune" in reported(spent)[2]) == goes_on
    for code, outcome in FINAL:
        said = result(outcome, "why", checkpoint_step=7)
        ended = decide(raw_job(started()), raw_attempt(ended="Failed"), raw_pod(exit_code=code, said=said))
        assert ("resumeFrom" in reported(ended)[2]) == (outcome is Outcome.OUTPUT_NOT_WRITABLE)


def test_the_cost_counts_every_accelerator_and_the_jobs_own_rate():
    compute, budget = {"nodes": 2, "gpusPerNode": 4}, {"hourlyRate": "2.00"}
    status = decide(raw_job(compute=compute, budget=budget)).status
    decided = decide(raw_job(status, compute=compute, budget=budget), raw_attempt(), raw_pod(running=True),
                     polled=3600, at=3600)
    assert decided.status.cost.spent == Decimal(16)


def test_of_many_attempts_ten_are_listed_and_all_are_paid_for():
    status, raws = started(), []
    for number in range(1, 14):
        raws += [raw_attempt(number, ended="Failed", at=number * 100 + 36),
                 raw_pod(number, scheduled=number * 100, exit_code=75, at=number * 100 + 36,
                         said=result(Outcome.STOPPED, checkpoint_step=number))]
        status = decide(raw_job(status), *raws, at=number * 100 + 40).status
    assert [one.number for one in status.attempts] == list(range(4, 14))
    assert status.cost.spent == Decimal("0.1300")
    assert status.cost.earlier_seconds == 3 * 36
    for existing in ((), raws):  # Their Jobs stay until the ttl.
        following = decide(raw_job(status), *existing, at=5001)
        assert following.status.cost.spent == Decimal("0.1300")
        assert following.status.attempts == status.attempts
        assert "create Job tune-14" in actions_of(following)


def test_time_of_attempts_that_are_no_longer_listed_counts_too():
    limited = {"budget": {"maxDuration": "2h"}}
    cost = started().cost.model_copy(update={"earlier": Decimal(2), "earlier_seconds": 7200})
    decided = decide(raw_job(started(cost=cost, attempts=(attempt(11, "Stopped", end=1),)), **limited), at=10)
    assert reported(decided)[:2] == ("Failed", "BudgetSpent")


# Afterwards

def test_a_finished_job_is_never_run_again():
    done = started(completion_time=NOW, phase=Phase.SUCCEEDED)
    assert decide(raw_job(done), at=99999).actions == ()


def test_a_finished_job_is_not_run_again_by_a_version_that_cannot_read_its_status():
    done = raw_job(started(completion_time=NOW, phase=Phase.SUCCEEDED, retries=Retries(counted=2)))
    done["status"] |= {"phase": "Celebrating", "attempts": [{"number": 1, "colour": []}]}
    decided = decide(done, at=99999)
    assert decided.actions == ()
    assert decided.status.completion_time == NOW
    assert decided.status.retries.counted == 2
    assert decided.status.cost == started().cost


def test_children_are_deleted_after_the_ttl():
    done = started(completion_time=NOW, phase=Phase.SUCCEEDED)

    def config_map(name):
        made = limits_map(view_job(raw_job(done)), 1, Limits())
        made["metadata"] |= {"uid": name, "name": name, "resourceVersion": "1"}
        return made

    maps = [config_map("tune-1-11111111-limits"), config_map("tune-1-11111111")]
    del maps[1]["metadata"]["annotations"]  # That with the run configuration is never applied again.
    policy = {"ttlSecondsAfterFinished": 100}
    raws = [raw_attempt(ended="Complete"), raw_pod(exit_code=0), *maps]
    early = decide(raw_job(done, runPolicy=policy), *raws, at=40)
    assert (actions_of(early), early.requeue_after.total_seconds()) == ([], 60)
    late = decide(raw_job(done, runPolicy=policy), *raws, at=100)
    assert actions_of(late) == ["delete Job tune-1", "delete ConfigMap tune-1-11111111",
                          "delete ConfigMap tune-1-11111111-limits"]
    second = decide(raw_job(done, runPolicy=policy), raw_attempt(2, ended="Complete"), maps[1], at=100)
    assert actions_of(second) == ["delete Job tune-2", "delete ConfigMap tune-1-11111111"], (
        "a suspend or a preemption deleted the first Job, and only that")
    going = raw_attempt(2, ended="Complete", deleting=True)
    assert actions_of(decide(raw_job(done, runPolicy=policy), going, *maps, at=101)) == []


def test_a_forged_attempt_number_causes_no_actions_for_the_numbers_before_it():
    done = raw_job(started(completion_time=NOW, phase=Phase.SUCCEEDED), runPolicy={"ttlSecondsAfterFinished": 1})
    forged = raw_attempt(999_999_999, ended="Complete")
    assert actions_of(decide(done, forged, at=100)) == ["delete Job tune-999999999"]


def test_a_refused_deletion_does_not_hide_how_the_job_ended():
    done = started(completion_time=NOW, phase=Phase.FAILED)
    job = view_job(raw_job(done))
    assert plan_after_refusal(job, decide(raw_job(done), raw_attempt()), "forbidden", NOW).status == job.status


def test_a_resumed_job_whose_attempt_is_refused_is_not_reported_as_suspended():
    suspended = decide(raw_job(started(), runPolicy={"suspend": True})).status
    resumed = decide(raw_job(suspended))
    told = plan_after_refusal(view_job(raw_job(suspended)), resumed, "exceeded quota", NOW)
    assert reported(told) == ("Starting", "CannotStart",
                             "the apiserver refuses an object that the job needs: exceeded quota")
    assert conditions(told)["Progressing"] == "True"


def test_a_job_that_is_being_deleted_is_left_alone():
    decided = decide(raw_job(started(), deleting=True), raw_attempt(ended="Failed"))
    assert (decided.actions, decided.events, decided.status) == ((), (), started())


def test_an_event_is_written_once_for_each_reason():
    raws = [raw_attempt(), raw_pod(unschedulable="0/1 nodes")]
    first = decide(raw_job(started()), *raws)
    assert [note.reason for note in first.events] == ["Unschedulable"]
    second = decide(raw_job(first.status), raws[0], raw_pod(unschedulable="0/2 nodes"))
    assert second.events == ()
    assert "0/2 nodes" in reported(second)[2]


def test_every_child_carries_the_labels_that_are_watched():
    for action in decide(raw_job(started(), compute={"nodes": 2})).actions:
        labels = action.manifest["metadata"]["labels"]
        assert labels[names.MANAGED_BY] == names.MANAGER
        assert labels[names.UID_LABEL]
