"""The decision about nodes that disappear, that refuse a pod, or that cannot start it any more."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from finetune_api.messages import Outcome, ProgressMessage, Stage
from finetune_api.status import Progress, Retries
from finetune_operator.settings import Settings

from tests.operator.objects import (
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

REFUSALS = [
    ("UnexpectedAdmissionError", "Allocate failed due to no healthy devices present, which is unexpected"),
    ("OutOfnvidia.com/gpu", "Node didn't have enough resource: nvidia.com/gpu, requested: 1, used: 1, capacity: 1"),
    ("TopologyAffinityError", "Resources cannot be allocated with Topology locality"),
    ("NodeShutdown", "Pod was rejected as the node is shutting down."),
    ("Evicted", "The node had condition: [DiskPressure]."),
]
DRAINED = "Eviction API: evicting"


def progress(step: int, checkpoint: int, resumed: int = 0) -> ProgressMessage:
    """The progress that a trainer reports."""
    return ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=step, total_steps=100, percent=step),
                           checkpoint_step=checkpoint, resumed_from_step=resumed)


def refused(number: int = 1, node: str = "node-a", at: float = 60, words: tuple[str, str] = REFUSALS[0]
            ) -> list[dict[str, Any]]:
    """The Job and the pod of an attempt that a kubelet refused."""
    return [raw_attempt(number, ended="Failed", at=at), raw_pod(number, scheduled=None, node=node, ended_by=words)]


def affinity(decided: Any) -> Any:
    """The nodes that the pods of the next attempt may use."""
    return created(decided, "Job")["spec"]["template"]["spec"].get("affinity")


def away_from(*nodes: str) -> Any:
    """The affinity that keeps a pod away from nodes."""
    terms = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": terms}]}}}


# Disruptions

@pytest.mark.parametrize(("code", "how"), [
    (137, {"disruption": DRAINED}), (143, {"disruption": DRAINED}), (1, {"disruption": DRAINED}),
    (None, {"disruption": DRAINED, "running": True}), (None, {"disruption": DRAINED, "waiting": ("X", "")}),
    (137, {"ended_by": ("Terminated", DRAINED)}), (137, {"ended_by": ("Preempting", DRAINED)}),
    (137, {"ended_by": ("Evicted", "The node was low on memory."), "disruption": DRAINED}),
])
def test_a_disruption_is_free_and_its_message_quotes_its_cause(code, how):
    ended, following = two_passes(started(), raw_attempt(ended="Failed"), raw_pod(exit_code=code, **how))
    assert reported(ended)[1] == "Retrying"
    assert "removed from node node-a" in reported(ended)[2]
    assert DRAINED in reported(ended)[2]
    (record,) = ended.status.attempts
    assert (record.reason, record.node, record.exit_code) == ("Disrupted", "node-a", code)
    assert DRAINED in record.message
    assert ended.status.retries == Retries(without_progress=1)
    assert "create Job tune-2" in actions_of(following), "at once"


@pytest.mark.parametrize("code", [65, 71])
def test_a_disruption_hides_no_failure_of_the_trainer(code):
    said = result(Outcome.BAD_DATA if code == 65 else Outcome.OUT_OF_MEMORY, "why")
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"),
                     raw_pod(exit_code=code, said=said, disruption=DRAINED))
    assert decided.status.attempts[0].reason == said.outcome


def test_a_pod_that_was_evicted_for_a_limit_of_its_own_is_a_counted_retry():
    words = "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi."
    pod = raw_pod(exit_code=137, ended_by=("Evicted", words))
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"), pod)
    assert (decided.status.attempts[0].reason, decided.status.retries.counted) == ("Evicted", 1)
    assert words in reported(decided)[2]


def test_a_lost_node_is_free_and_a_pod_on_another_node_does_not_explain_the_end():
    lost = raw_pod(index=0, running=True, leaving=True, disruption="Taint manager: deleting")
    other = raw_pod(index=1, exit_code=1, at=100)
    decided = decide(raw_job(started(), compute={"nodes": 2}), raw_attempt(), lost, other, at=360)
    assert decided.status.attempts[0].reason == "Disrupted"
    assert decided.status.retries == Retries(without_progress=1)


@pytest.mark.parametrize(("pod", "retries"), [
    (raw_pod(exit_code=137, disruption=DRAINED), Retries()),
    (raw_pod(exit_code=137), Retries(counted=1)),
    (raw_pod(running=True), Retries(counted=1)),
], ids=["disrupted", "killed", "lost"])
def test_a_newer_checkpoint_resets_every_count(pod, retries):
    before = Retries(counted=3, without_progress=10)
    running = decide(raw_job(started(retries=before)), raw_attempt(), raw_pod(running=True),
                     progress=progress(9, checkpoint=8), polled=50, at=50)
    ended = decide(raw_job(running.status), raw_attempt(ended="Failed"), pod, at=70)
    assert ended.status.retries == retries
    assert ended.status.attempts[0].checkpoint_step == 8
    stuck = decide(raw_job(started(retries=before)), raw_attempt(ended="Failed"), pod, at=70)
    assert reported(stuck)[0] == "Failed", "without one, there is an end to it"


def test_a_checkpoint_that_only_the_next_attempt_reports_counts_too():
    status = started(retries=Retries(counted=2, without_progress=3), attempts=(
        attempt(1, "Killed", end=60, resumedFromStep=0), attempt(2, "Killed", end=70)))
    pods = raw_attempt(3), raw_pod(3, scheduled=80, running=True)
    shown = decide(raw_job(status), *pods, progress=progress(9, 8, resumed=8), polled=90, attempt=3, at=90)
    assert shown.status.retries == Retries()
    same = started(retries=Retries(counted=2), attempts=(attempt(1, "Killed", end=60, resumedFromStep=8),
                                                         attempt(2, "Killed", end=70)))
    shown = decide(raw_job(same), *pods, progress=progress(9, 8, resumed=8), polled=90, attempt=3, at=90)
    assert shown.status.retries == Retries(counted=2)


def test_an_attempt_that_started_at_step_zero_again_made_no_progress():
    before = started(retries=Retries(counted=2), attempts=(attempt(1, "Killed", end=60, checkpointStep=8),))
    for checkpoint, counted in ((8, 3), (9, 1)):
        said = result(Outcome.INTERNAL, checkpoint_step=checkpoint)
        ended = decide(raw_job(before), raw_attempt(2, ended="Failed"), raw_pod(2, exit_code=1, said=said), at=70)
        assert ended.status.retries.counted == counted


def test_the_record_of_an_attempt_has_its_node_its_exit_code_and_its_message():
    running = decide(raw_job(started()), raw_attempt(), raw_pod(running=True, node="node-b"), at=10)
    (record,) = running.status.attempts
    assert (record.node, record.exit_code, record.message) == ("node-b", None, None)
    ended = decide(raw_job(running.status), raw_attempt(ended="Complete"),
                   raw_pod(node="node-b", exit_code=0, said=result(Outcome.SUCCEEDED, "w" * 2000)))
    (record,) = ended.status.attempts
    assert (record.node, record.exit_code, len(record.message)) == ("node-b", 0, 1024)


def test_an_end_before_the_start_is_the_start():
    """A fresh node's clock may be behind that of the scheduler."""
    pod = raw_pod(scheduled=100, exit_code=1, at=60)
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"), pod, at=110)
    assert brief_records(decided) == (attempt(reason="UnknownExit", start=100, end=100),)
    assert decided.status.cost.spent == 0


# Nodes that refuse

@pytest.mark.parametrize("words", REFUSALS, ids=[reason for reason, _ in REFUSALS])
def test_a_refusal_by_a_node_is_free_and_its_message_quotes_the_kubelet(words):
    before = started(retries=Retries(counted=3, without_progress=10))
    ended, following = two_passes(before, *refused(words=words), at=65)
    assert reported(ended)[1] == "Retrying"
    assert ": ".join(words) in reported(ended)[2]
    (record,) = ended.status.attempts
    assert (record.reason, record.node) == ("NodeRefused", "node-a")
    assert words[1] in record.message
    assert ended.status.retries == Retries(counted=3, without_progress=10, unstarted=1)
    assert ended.status.cost.spent == 0
    assert (actions_of(following), following.requeue_after.total_seconds()) == ([], 5), "ten seconds after it"


def test_the_next_attempt_avoids_nodes_that_refused_one():
    status = started(retries=Retries(unstarted=2), attempts=(
        attempt(1, "NodeRefused", end=1, node="node-a"), attempt(2, "Stopped", end=2, node="node-c"),
        attempt(3, "NodeRefused", end=30, node="node-b")))
    assert affinity(decide(raw_job(status), at=100)) == away_from("node-a", "node-b")
    assert affinity(decide(raw_job(status), at=325)) == away_from("node-b"), "not for good"
    assert affinity(decide(raw_job(status), at=350)) is None


def test_a_node_on_which_the_trainer_cannot_use_its_accelerator_is_avoided_and_the_retry_counts():
    said = result(Outcome.NO_ACCELERATOR, "the trainer cannot use a GPU: device files: none")
    raws = [raw_attempt(ended="Failed"), raw_pod(exit_code=69, said=said, node="node-b", at=30)]
    ended, following = two_passes(started(), *raws, at=60)
    assert reported(ended)[:2] == ("Starting", "Retrying")
    assert "device files: none. The next attempt resumes" in reported(ended)[2]
    (record,) = ended.status.attempts
    assert (record.reason, record.node, record.exit_code) == ("NoAccelerator", "node-b", 69)
    assert ended.status.retries == Retries(counted=1)
    assert affinity(following) == away_from("node-b")
    unrelated = started(retries=Retries(counted=1), attempts=(attempt(1, "Killed", end=30, node="node-b"),))
    assert affinity(decide(raw_job(unrelated), at=60)) is None


def test_a_job_that_finds_no_node_with_a_working_accelerator_fails_with_what_the_last_one_saw():
    before = started(retries=Retries(counted=3), attempts=(attempt(1, "NoAccelerator", end=1, node="node-a"),))
    raws = [raw_attempt(2, ended="Failed"), raw_pod(2, exit_code=69, node="node-b",
                                                     said=result(Outcome.NO_ACCELERATOR, "no GPU: check the driver"))]
    assert reported(decide(raw_job(before), *raws)) == (
        "Failed", "NoAccelerator", "no GPU: check the driver (retried 3 times, which is runPolicy.backoffLimit)")


def test_of_several_nodes_the_one_without_an_accelerator_explains_the_end_and_is_avoided():
    lost = raw_pod(index=0, exit_code=1, said=result(Outcome.INTERNAL, "lost the connection"), node="node-a")
    without = raw_pod(index=1, exit_code=69, said=result(Outcome.NO_ACCELERATOR, "no GPU"), node="node-b")
    ended = decide(raw_job(started(), compute={"nodes": 2}), raw_attempt(ended="Failed"), lost, without)
    assert (ended.status.attempts[0].reason, ended.status.attempts[0].node) == ("NoAccelerator", "node-b")


def test_an_administrators_affinity_still_holds_beside_it():
    zones = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"]
    template = {"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}}}}}
    settings = Settings(trainer_image="registry/trainer:1", pod_template=template)
    status = started(retries=Retries(unstarted=1), attempts=(attempt(1, "NodeRefused", end=1, node="node-a"),))
    made = affinity(decide(raw_job(status), at=60, settings=settings))
    (fields,) = away_from("node-a")["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"]
    assert made["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {**zone, **fields} for zone in zones]
    assert affinity(decide(raw_job(started()), settings=settings)) == template["spec"]["affinity"], "nor the settings"
    assert "matchFields" not in str(settings.pod_template)


@pytest.mark.parametrize("empty", [None, {}, {"nodeAffinity": None}, {"nodeAffinity": {
    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": None}}}])
def test_an_affinity_that_an_administrator_left_empty_is_none(empty):
    settings = Settings(trainer_image="registry/trainer:1", pod_template={"spec": {"affinity": empty}})
    status = started(retries=Retries(unstarted=1), attempts=(attempt(1, "NodeRefused", end=1, node="node-a"),))
    assert affinity(decide(raw_job(status), at=60, settings=settings)) == away_from("node-a")


def test_an_attempt_that_finds_no_other_node_may_come_back_after_a_while():
    status = started(retries=Retries(unstarted=1), attempts=(attempt(1, "NodeRefused", start=-50, end=-50, node="n"),))
    waits = raw_attempt(2), raw_pod(2, unschedulable="0/1 nodes: 1 node(s) didn't match")
    early = decide(raw_job(status), *waits, at=100)
    assert reported(early)[1] == "Unschedulable"
    assert ("Attempt 2 may not use n (until 12:04:20 UTC), because an earlier attempt could not run there"
            in reported(early)[2])
    assert ("delete Job tune-2" in actions_of(early), early.requeue_after.total_seconds()) == (False, 160)
    late = decide(raw_job(early.status), *waits, at=260)
    assert actions_of(late) == ["delete Job tune-2"]
    again = decide(raw_job(late.status), at=261)
    assert affinity(again) is None
    assert "create Job tune-2" in actions_of(again), "it never had a node, and counts for nothing"
    assert again.status.retries == status.retries


def test_the_waits_grow_up_to_an_hour():
    def wait(unstarted: int) -> float:
        status = started(retries=Retries(unstarted=unstarted), attempts=(attempt(1, "NodeRefused", end=0),))
        return decide(raw_job(status), at=0).requeue_after.total_seconds()

    assert [wait(count) for count in (1, 2, 3, 9, 99)] == [10, 20, 40, 2560, 3600]


# Attempts that do not start

WAITING = [(("ImagePullBackOff", "Back-off"), "ImagePullFailed"), (("CreateContainerConfigError", "x"),
                                                                   "ContainerConfigError"),
           (("ContainerCreating", ""), "StartTimeout")]


@pytest.mark.parametrize(("waiting", "reason"), WAITING)
def test_a_job_whose_trainer_has_run_is_retried_until_a_node_starts_it(waiting, reason):
    """A registry may not answer, or a volume may still be attached elsewhere: that ends no job that was paid for."""
    before = started(retries=Retries(counted=3, without_progress=10, unstarted=40),
                     attempts=(attempt(1, "Stopped", end=1, exitCode=75),))
    stuck = raw_attempt(2), raw_pod(2, waiting=waiting)
    assert "StartTimeout" not in reported(decide(raw_job(before), *stuck, at=599))
    late = decide(raw_job(before), *stuck, at=600)
    assert reported(late)[:2] == ("Starting", "Retrying")
    assert "apply the job again" not in reported(late)[2]
    assert brief_records(late)[-1] == attempt(2, reason), "its node is held until its pod is gone"
    assert late.status.retries.unstarted == 41
    assert actions_of(late) == [], "first the status"
    assert actions_of(decide(raw_job(late.status), *stuck, at=601)) == ["delete Job tune-2"]
    gone = decide(raw_job(late.status), at=660)
    assert brief_records(gone)[-1] == attempt(2, reason, end=660)
    assert gone.status.cost.spent == Decimal("0.1836")
    assert "create Job tune-3" in actions_of(decide(raw_job(gone.status), at=660 + 3600))


def test_progress_that_was_observed_once_is_a_start_too():
    status = started(progress=Progress(step=1, total_steps=2, percent=50))
    late = decide(raw_job(status), raw_attempt(), raw_pod(waiting=WAITING[0][0]), at=600)
    assert reported(late)[1] == "Retrying"


def test_an_attempt_that_ran_ends_the_count_of_those_that_did_not():
    ran = [raw_attempt(ended="Failed"), raw_pod(exit_code=75, said=result(Outcome.STOPPED))]
    assert decide(raw_job(started(retries=Retries(unstarted=5))), *ran, at=70).status.retries == Retries(
        without_progress=1)
