"""The check before the start on a real apiserver; the tests end its pods with what a trainer would have said."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api.messages import JobEstimate, Outcome, PreflightResult, PreflightVerdict
from finetune_api.status import AcceleratorChoice

from tests.cluster.waiting import wait_for
from tests.operator.api import Refused
from tests.operator.operators import Operator
from tests.operator.work import DONE, Work

CHECK = {"preflight": "Required"}
PASSED = PreflightResult(
    verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, message="36 rows to learn from", model_revision="c" * 40,
    data_hash="d" * 64, estimate=JobEstimate(memory_bytes=17 * 2**30, micro_batch_size=8, gradient_checkpointing=True,
                                             tokens=1_000_000, hours=1.5, cost=Decimal("1.50")))
TOO_LARGE = PreflightResult(verdict=PreflightVerdict.REFUSED, reason=Outcome.OUT_OF_MEMORY,
                            message="spec: needs about 30 GiB: write spec.method.quantization: nf4")


def test_a_job_is_checked_then_trained_and_the_check_leaves_nothing(operator, work, api, namespace):
    work.apply(runPolicy=CHECK)
    work.until("Preflight")
    work.end(0, PASSED, "1-preflight", "Completed")
    status = work.until("Running")
    assert status["memory"] == {"estimatedBytes": 17 * 2**30, "acceleratorBytes": 24 * 2**30}
    assert status["cost"]["projected"] == "1.50"
    assert status["preflight"] == {"generation": 1, "failures": 0, "modelRevision": "c" * 40, "dataHash": "d" * 64,
                                   "hours": 1.5}
    wait_for(lambda: work.jobs() == ["tune-1"], "the check to leave")
    wait_for(lambda: [one["metadata"]["name"] for one in api.list("ConfigMap", namespace)
                      if "preflight" in one["metadata"]["name"]] == [], "its configuration to leave")
    work.end(0, DONE)
    work.until("Succeeded")


def test_the_accelerator_that_the_check_chose_is_the_one_of_pods_price_and_status(operator, work, api, namespace):
    work.apply(runPolicy=CHECK, compute={"accelerator": "auto"})
    work.until("Preflight")
    choice = AcceleratorChoice(name="nvidia-a10g", reason="it has the lowest estimated cost", next_best="nvidia-l4")
    work.end(0, PASSED.model_copy(update={"accelerator": choice}), "1-preflight", "Completed")
    status = work.until("Queued", "Unschedulable")  # The only node has an L4.
    assert status["preflight"]["accelerator"] == {
        "name": "nvidia-a10g", "reason": "it has the lowest estimated cost", "nextBest": "nvidia-l4"}
    assert status["cost"]["hourlyRate"] == "1.25"
    assert status["memory"]["acceleratorBytes"] == 24 * 2**30
    template = api.get("Job", namespace, "tune-1")["spec"]["template"]
    assert template["spec"]["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-A10G"
    with pytest.raises(Refused, match="the job has started"):
        work.change(compute={"accelerator": "nvidia-l4"})


def test_a_refused_job_is_edited_and_checked_again_on_the_same_object(operator, work):
    work.apply(runPolicy=CHECK)
    work.until("Preflight")
    work.end(71, TOO_LARGE, "1-preflight")
    status = work.until("Pending", "OutOfMemory")
    conditions = {one["type"]: one for one in status["conditions"]}
    assert (conditions["Validated"]["status"], conditions["Stalled"]["status"]) == ("False", "True")
    assert conditions["Validated"]["message"] == TOO_LARGE.message
    assert "startTime" not in status
    wait_for(lambda: work.jobs() == [], "the check to leave")
    work.change(method={"quantization": "nf4"})
    work.until("Preflight")
    work.end(0, PASSED, "2-preflight", "Completed")
    work.until("Running")
    assert "tune-1-preflight" not in work.jobs()
    with pytest.raises(Refused, match="the job has started"):
        work.change(method={"quantization": "int8"})


def test_a_published_result_is_adopted_without_any_trainer(operator, work):
    work.apply(runPolicy=CHECK)
    work.until("Preflight")
    said = PreflightResult(verdict=PreflightVerdict.ALREADY_PUBLISHED, reason=Outcome.ALREADY_PUBLISHED,
                           message="published already", published=DONE)
    work.end(0, said, "1-preflight", "Completed")
    status = work.until("Succeeded", "AlreadyPublished")
    assert status["adapter"]["uri"] == DONE.adapter.uri
    assert "attempts" not in status or status["attempts"] == []
    wait_for(lambda: work.jobs() == [], "nothing to be left")


def test_a_check_that_is_killed_is_made_again(operator, work):
    work.apply(runPolicy=CHECK)
    work.until("Preflight", "Preflight")
    work.end(137, None, "1-preflight")
    work.end(0, PASSED, "1r1-preflight", "Completed")
    status = work.until("Running")
    wait_for(lambda: work.jobs() == ["tune-1"], "the checks to leave")
    assert [one["number"] for one in status["attempts"]] == [1]


def test_a_check_that_is_evicted_is_made_again_and_that_counts_for_nothing(operator, work):
    work.apply(runPolicy=CHECK)
    work.until("Preflight", "Preflight")
    first = work.running_pod("1-preflight")["metadata"]["uid"]
    work.end(75, None, "1-preflight")
    wait_for(lambda: work.running_pod("1-preflight")["metadata"]["uid"] != first, "the second check")
    work.end(0, PASSED, "1-preflight", "Completed")
    assert work.until("Running")["preflight"]["failures"] == 0


def test_checks_take_turns_and_the_next_is_made_when_one_has_ended(control_plane, api, namespace):
    operator = Operator(control_plane, namespace, settings={"preflight": {"parallelism": 1}}, identity="bounded")
    try:
        first, second = works = [Work(api, namespace, name) for name in ("first", "second")]
        first.apply(runPolicy=CHECK)
        first.until("Preflight", "Preflight")
        second.apply(runPolicy=CHECK)
        second.until("Preflight", "WaitingForCheck")
        assert second.jobs() == []
        first.end(0, PASSED, "1-preflight", "Completed")
        second.until("Preflight", "Preflight")
        assert [len(work.jobs()) for work in works][1] == 1
    finally:
        operator.stop()


def test_a_check_looks_for_the_trainers_nodes_until_its_claim_has_a_volume(operator, api, namespace):
    storage = {"accessModes": ["ReadWriteOnce"], "storageClassName": namespace}
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace}, "spec": {
        **storage, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": namespace, "name": "bound"}}}
    for name in ("bound", "new"):
        api("POST", claims, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
                             "spec": {**storage, "resources": {"requests": {"storage": "1Gi"}}}})
    api("POST", "/api/v1/persistentvolumes", volume)
    try:
        wait_for(lambda: api("GET", f"{claims}/bound")["status"].get("phase") == "Bound", "the claim to be bound")
        for name, selector in (("new", {"nvidia.com/gpu.product": "NVIDIA-L4"}), ("bound", None)):
            work = Work(api, namespace, name)
            work.apply(runPolicy=CHECK, output={"uri": f"pvc://{name}/out"})
            wait_for(work.jobs, "the check")
            (check,) = [one for one in api.list("Job", namespace) if one["metadata"]["name"].startswith(name)]
            assert check["spec"]["template"]["spec"].get("nodeSelector") == selector, name
    finally:
        api("DELETE", f"/api/v1/persistentvolumes/{namespace}")


@pytest.mark.parametrize("moment", ["start", "started"])
def test_an_operator_that_is_killed_around_a_check_changes_nothing(control_plane, work, namespace, moment):
    first = Operator(control_plane, namespace, fault=moment, identity="first")
    work.apply(runPolicy=CHECK)
    work.until("Preflight")
    work.end(0, PASSED, "1-preflight", "Completed")
    first.process.popen.wait(60)
    second = Operator(control_plane, namespace, identity="second")
    try:
        work.until("Running")
        wait_for(lambda: work.jobs() == ["tune-1"], "the check to leave")
    finally:
        second.stop()
