"""What a platform does to pods, on a real apiserver with a real scheduler; the tests tell of it as kubelets do."""

from __future__ import annotations

import pytest

from tests.cluster.waiting import wait_for
from tests.operator.operators import Operator
from tests.operator.work import ADAPTER, DONE

SIDECAR = {"podTemplate": {"spec": {"containers": [{
    "name": "proxy", "image": "registry.invalid/proxy:1"}]}}}
REFUSED = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed: no healthy devices"}


@pytest.fixture
def meshed(control_plane, namespace):
    """An operator whose trainers have something beside them."""
    running = Operator(control_plane, namespace, settings=SIDECAR)
    yield running
    running.stop()


def test_an_attempt_ends_with_its_trainer_and_lets_go_of_its_node(meshed, work, api, namespace):
    work.apply()
    pod = work.running_pod()
    trainer, proxy = pod["status"]["containerStatuses"]
    ended = {"exitCode": 0, "reason": "Completed", "message": DONE.to_bytes().decode(),
             "startedAt": pod["status"]["startTime"], "finishedAt": pod["status"]["startTime"]}
    assert (trainer["name"], proxy["name"]) == ("trainer", "proxy")
    api.patch("Pod", namespace, pod["metadata"]["name"], {"status": {"containerStatuses": [
        {**trainer, "state": {"terminated": ended}, "ready": False}, proxy]}}, "status")
    assert work.until("Succeeded")["adapter"]["uri"] == ADAPTER.uri
    wait_for(lambda: work.jobs() == [], "its Job to be deleted")
    (record,) = wait_for(lambda: [one for one in work.status()["attempts"] if "endTime" in one], "its end")
    assert (record["reason"], record["exitCode"], record["node"]) == ("Succeeded", 0, pod["spec"]["nodeName"])


def test_an_attempt_keeps_away_from_a_node_that_refused_one(operator, work, api, namespace):
    work.apply()
    pod = work.running_pod()
    api.patch("Pod", namespace, pod["metadata"]["name"], {"status": {**REFUSED, "containerStatuses": None}}, "status")
    status = work.until("Queued", "Unschedulable")
    assert "didn't match" in next(one["message"] for one in status["conditions"] if one["type"] == "Progressing")
    (record,) = status["attempts"]
    assert (record["reason"], record["node"]) == ("NodeRefused", pod["spec"]["nodeName"])
    assert REFUSED["message"] in record["message"]
    assert status["retries"] == {"counted": 0, "withoutProgress": 0, "unstarted": 1}
