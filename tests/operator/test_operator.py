"""The operator as a process, on a real control plane; kwok starts the pods, the tests end them as kubelets do."""

from __future__ import annotations

import http.server
import json
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from finetune_api.messages import Outcome, ProgressMessage, Result, Stage
from finetune_api.status import Progress

from tests.api.jobs import document
from tests.cluster.binaries import Unavailable
from tests.cluster.fixtures import needing_this_machine
from tests.cluster.waiting import wait_for
from tests.operator.api import Refused
from tests.operator.operators import Operator
from tests.operator.work import ADAPTER, DONE, Work


def test_a_job_runs_from_apply_to_its_adapter(operator, work):
    work.apply()
    work.until("Running")
    work.end(0, DONE)
    status = work.until("Succeeded")
    assert status["adapter"]["uri"] == ADAPTER.uri
    assert status["attempts"][0]["reason"] == "Succeeded"
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Validated": "True", "Admitted": "True", "Progressing": "False", "Reconciling": "False", "Finished": "True",
        "Succeeded": "True", "Failed": "False"}
    reasons = wait_for(lambda: [one["reason"] for one in work.events()] if len(work.events()) >= 3 else None, "events")
    assert sorted({*reasons, "Starting"}) == ["Running", "Started", "Starting", "Succeeded"], reasons
    assert len(reasons) == len(set(reasons)), "each once"
    assert operator.requests("POST", "PUT", "PATCH") <= 12, "9, and 2 more where the pod takes its time"


def test_the_objects_are_what_pod_security_restricted_demands(operator, api, control_plane, work, namespace):
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted",
                          "--overwrite")
    work.apply()
    work.running_pod()


def test_a_hundred_idle_passes_make_no_request(operator, work, api, namespace):
    work.apply()
    work.until("Running")
    limits = next(one["metadata"]["name"] for one in api.list("ConfigMap", namespace)
                  if one["metadata"]["name"].endswith("-limits"))
    before = wait_for(lambda: _settled(operator), "the operator to be idle")
    passes = operator.metrics()[("finetune_operator_reconciles_total", frozenset({("result", "ok")}))]
    for number in range(100):  # A label on a watched child is news to the watch, and none to the plan.
        api.patch("ConfigMap", namespace, limits, {"metadata": {"labels": {"test": str(number)}}})
    wait_for(lambda: operator.metrics()[("finetune_operator_reconciles_total", frozenset({("result", "ok")}))]
             >= passes + 10, "the passes")
    assert _settled(operator) == before


def _settled(operator):
    first = operator.requests()
    deadline = []
    wait_for(lambda: deadline.append(1) or len(deadline) > 20, "a second to pass")
    return first if operator.requests() == first else None


def test_what_the_catalogue_does_not_have_is_refused_until_it_is_edited(operator, work):
    work.apply(compute={"accelerator": "tpu-v9"})
    status = work.until("Pending", "InvalidSpec")
    assert "tpu-v9 is not in the catalogue; write one of cpu, nvidia-a100-40" in status["conditions"][0]["message"]
    assert work.jobs() == []
    work.change(compute={"accelerator": "nvidia-l4"})
    work.until("Running")


def test_a_failed_attempt_is_retried_up_to_the_limit(operator, work):
    work.apply(runPolicy={"preflight": "Skip", "backoffLimit": 1})
    work.until("Running")
    work.end(1)
    work.end(1, number=2)
    status = work.until("Failed")
    assert "retried 1 times" in status["conditions"][-1]["message"]
    assert work.jobs() == ["tune-1", "tune-2"]


def test_suspend_and_resume(operator, work):
    work.apply()
    work.until("Running")
    work.change(runPolicy={"suspend": True})
    work.until("Suspended")
    assert work.jobs() == []
    work.change(runPolicy={"suspend": False})
    work.running_pod(2)


@pytest.mark.parametrize("moment", ["start", "started", "created", "final"])
def test_an_operator_that_is_killed_anywhere_changes_nothing(control_plane, api, work, namespace, moment):
    first = Operator(control_plane, namespace, fault=moment, identity="first")
    work.apply()
    if moment == "final":
        work.until("Running")
        work.end(0, DONE)
    assert first.process.popen.wait(60) == -signal.SIGKILL
    second = Operator(control_plane, namespace, identity="second")
    try:
        if moment != "final":
            work.until("Running")
            work.end(0, DONE)
        status = work.until("Succeeded")
        assert work.jobs() == ["tune-1"]
        assert [one["number"] for one in status["attempts"]] == [1]
    finally:
        second.stop()


def test_new_settings_restart_nothing(control_plane, api, work, namespace):
    first = Operator(control_plane, namespace, identity="old")
    work.apply()
    pod = work.running_pod()
    work.until("Running")
    first.stop()
    given = _written_by_another_release(api, namespace, pod)
    second = Operator(control_plane, namespace, identity="new", settings={"trainerImage": "registry.invalid/trainer:2"})
    try:
        work.end(75, Result(outcome=Outcome.STOPPED, message="stopped"))
        following = work.running_pod(2)
        assert following["spec"]["containers"][0]["image"] == pod["spec"]["containers"][0]["image"]
        assert _run_json(api, namespace, following) == {**given, "attempt": 2}
    finally:
        second.stop()


def _run_map(api, namespace, pod):
    name = next(one["configMap"]["name"] for one in pod["spec"]["volumes"] if one["name"] == "run")
    return api.get("ConfigMap", namespace, name)


def _run_json(api, namespace, pod):
    return json.loads(_run_map(api, namespace, pod)["data"]["run.json"])


def _written_by_another_release(api, namespace, pod):
    """Put a run configuration with fields of another release, and without one of this, in the place of a pod's."""
    made = _run_map(api, namespace, pod)
    content = {**json.loads(made["data"]["run.json"]), "fieldOfAnotherRelease": {"a": 1}}
    del content["date"]
    api.delete("ConfigMap", namespace, made["metadata"]["name"], "Background")
    metadata = {key: made["metadata"][key] for key in ("name", "labels", "ownerReferences")}
    api.create("ConfigMap", namespace, {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True,
                                        "metadata": metadata, "data": {"run.json": json.dumps(content)}})
    return content


def test_the_same_name_in_two_namespaces_is_two_jobs(control_plane, api):
    places = [control_plane.namespace(), control_plane.namespace()]
    operator = Operator(control_plane, identity="everywhere")
    try:
        works = [Work(api, place) for place in places]
        for one in works:
            one.apply()
        works[0].until("Running")
        works[1].until("Running")
        works[0].end(0, DONE)
        works[0].until("Succeeded")
        assert works[1].status()["phase"] == "Running"
    finally:
        operator.stop()


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_a_deleted_job_takes_its_children_along_and_can_be_applied_again(operator, work, api, namespace, propagation):
    work.apply()
    work.until("Running")
    api.delete("FineTuneJob", namespace, "tune", propagation)
    wait_for(lambda: not api.list("FineTuneJob", namespace), "the job to be gone")
    work.apply()
    status = work.until("Running")
    wait_for(lambda: len(work.jobs()) == 1, "the old children to be gone")
    assert len(status["attempts"]) == 1


def test_an_orphaned_attempt_does_not_stop_a_job_of_the_same_name(operator, work, api, namespace):
    work.apply()
    work.until("Running")
    api.delete("FineTuneJob", namespace, "tune", "Orphan")
    wait_for(lambda: not api.list("FineTuneJob", namespace), "the job to be gone")
    assert work.jobs() == ["tune-1"]
    work.apply()
    work.running_pod(2)


def test_children_go_after_the_ttl_and_the_result_stays(operator, work, api, namespace):
    work.apply(runPolicy={"preflight": "Skip", "ttlSecondsAfterFinished": 1})
    work.until("Running")
    work.end(0, DONE)
    wait_for(lambda: work.jobs() == [], "the children to go")
    assert work.status()["phase"] == "Succeeded"


def test_a_deletion_that_the_watch_missed_is_noticed(control_plane, api, work, namespace):
    first = Operator(control_plane, namespace, identity="before")
    work.apply()
    work.until("Running")
    first.stop()
    api.delete("Job", namespace, "tune-1")
    wait_for(lambda: work.jobs() == [], "the attempt to be gone")
    second = Operator(control_plane, namespace, identity="after")
    try:
        work.running_pod(2)
        assert work.status()["attempts"][0]["reason"] == "JobDeleted"
    finally:
        second.stop()


def test_a_second_replica_stands_by_and_takes_over(control_plane, api, work, namespace):
    first = Operator(control_plane, namespace, lease=f"{namespace}/lead", identity="a")
    leader = ("finetune_operator_leader", frozenset())
    wait_for(lambda: first.metrics()[leader] == 1, "the first to lead")
    second = Operator(control_plane, namespace, lease=f"{namespace}/lead", identity="b")
    wait_for(lambda: "standing by: a leads" in second.process.log.read_text(), "the second to stand by")
    first.process.stop(grace_seconds=0)
    work.apply()
    work.until("Running", seconds=60)
    assert second.metrics()[leader] == 1
    second.stop()
    assert api.get("Lease", namespace, "lead")["spec"]["holderIdentity"] == ""


def test_a_replica_that_stands_by_ends_at_once_when_asked_to(control_plane, namespace):
    leaders = [Operator(control_plane, namespace, lease=f"{namespace}/lead", identity=name) for name in "ab"]
    wait_for(lambda: any("standing by" in one.process.log.read_text() for one in leaders), "one to stand by")
    standby = next(one for one in leaders if "standing by" in one.process.log.read_text())
    standby.process.popen.terminate()
    assert standby.process.popen.wait(15) == 0
    for one in leaders:
        one.stop()


def test_what_the_apiserver_refuses_is_told_and_tried_again(operator, work, api, namespace):
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    api("POST", quotas, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
                         "spec": {"hard": {"count/jobs.batch": "0"}}})
    wait_for(lambda: api("GET", f"{quotas}/none")["status"].get("hard"), "the quota to hold")
    work.apply()
    status = work.until("Starting", "CannotStart")
    words = next(one["message"] for one in status["conditions"] if one["type"] == "Progressing")
    assert words.startswith("the apiserver refuses an object that the job needs: 403 Forbidden: ")
    assert "exceeded quota: none" in words
    api("DELETE", f"{quotas}/none")
    work.until("Running")
    counted = {name: value for name, value in operator.metrics().items() if "refused" in str(name)}
    assert counted.get(("finetune_operator_reconciles_total", frozenset({("result", "refused")}))) >= 1
    assert {dict(labels)["refused_by"] for (name, labels), _ in counted.items()
            if name == "finetune_operator_api_requests_total"} == {"", "admission"}
    assert operator.metrics()[("finetune_operator_reconciles_total", frozenset({("result", "error")}))] == 0


def test_a_leader_that_lost_its_lease_ends(control_plane, api, namespace):
    operator = Operator(control_plane, namespace, lease=f"{namespace}/lead", identity="a")
    wait_for(lambda: operator.metrics()[("finetune_operator_leader", frozenset())] == 1, "it to lead")
    api.patch("Lease", namespace, "lead", {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}})
    assert operator.process.popen.wait(30) == 1
    assert "the operator stops: thief leads now" in operator.process.log.read_text()


def test_an_apiserver_that_goes_away_and_comes_back_is_lived_through(control_plane, api, work, namespace):
    operator = Operator(control_plane, namespace, identity="patient")
    try:
        work.apply()
        work.until("Running")
        control_plane.pause_apiserver()
        control_plane.restart_apiserver()
        work.end(0, DONE)
        work.until("Succeeded", seconds=90)
    finally:
        operator.stop()


class _Trainer(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def test_progress_flows_into_status_and_metrics_and_leaves_with_the_job(control_plane, api, work, namespace):
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=2, total_steps=4, percent=50, loss=0.25))
    _Trainer.content = message.model_dump_json(exclude_none=True).encode()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Trainer)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    operator = Operator(control_plane, namespace, settings={"trainerPort": server.server_port}, identity="asking")
    loss = ("finetune_job_loss_nats", frozenset({("namespace", namespace), ("job", "tune")}))
    try:
        work.apply()
        pod = work.running_pod()
        api.patch("Pod", namespace, pod["metadata"]["name"], {"status": {
            "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}, "status")
        status = wait_for(lambda: (seen := work.status()).get("progress") and seen, "the progress")
        assert status["progress"]["percent"] == 50
        assert status["stage"] == "training"
        assert operator.metrics()[loss] == 0.25
        _Trainer.content = b"x" * 20_000
        assert work.status()["phase"] == "Running"
        api.delete("FineTuneJob", namespace, "tune")
        wait_for(lambda: loss not in operator.metrics(), "the series to go")
    finally:
        operator.stop()
        server.shutdown()
        server.server_close()


def test_promtool_finds_nothing_wrong_with_the_metrics(operator, work):
    work.apply()
    work.until("Running")
    with needing_this_machine():
        if (promtool := shutil.which("promtool")) is None:
            raise Unavailable("promtool is not installed: tests/cluster/packages.sh says how")
    checked = subprocess.run([promtool, "check", "metrics"], input=operator.exposition(), capture_output=True,
                             text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("labels", [
    {"finetune.dev/job": "tune"}, {"finetune.dev/job": "tune", "finetune.dev/job-uid": "x"},
    {"finetune.dev/job": "tune", "finetune.dev/job-uid": "x", "finetune.dev/attempt": "first"}])
def test_a_strangers_job_with_our_labels_stops_the_operator_for_nobody(control_plane, api, work, namespace, labels):
    marked = {"labels": {**labels, "app.kubernetes.io/managed-by": "finetune-operator"},
              "annotations": {"batch.kubernetes.io/job-completion-index": "none"}}
    container = {"name": "trainer", "image": "x"}
    template = {"metadata": marked, "spec": {"restartPolicy": "Never", "containers": [container]}}
    api.create("Job", namespace, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "odd", **marked},
                                  "spec": {"template": template}})
    wait_for(lambda: api.list("Pod", namespace), "its pod")
    operator = Operator(control_plane, namespace, identity="unimpressed")
    try:
        work.apply()
        work.until("Running")
        assert "Traceback" not in operator.process.log.read_text()
    finally:
        operator.stop()


def test_unusable_settings_are_refused_by_field(control_plane, tmp_path):
    operator = Operator(control_plane, "default", settings={"trainerImge": "x", "startTimeout": "soon"}, identity="odd")
    assert operator.process.popen.wait(30) == 2
    log = operator.process.log.read_text()
    assert "trainerImge" in log
    assert "startTimeout: Value error, write a duration with its unit" in log


def test_a_job_of_a_user_is_refused_nothing_else(api, namespace):
    with pytest.raises(Refused, match="file:// is for `finetune run` alone"):
        api.create("FineTuneJob", namespace, document(model={"source": "file:///models/x"}))


def test_the_sample_is_accepted_as_it_stands(control_plane, api, namespace):
    sample = Path(__file__).parents[2] / "deploy" / "samples" / "finetunejob.yaml"
    control_plane.kubectl("apply", "-n", namespace, "--dry-run=server", "-f", sample)


def test_log_lines_can_be_json():
    import logging

    from finetune_operator.telemetry.logs import JsonFormatter  # type: ignore[attr-defined]

    record = logging.LogRecord("x", logging.INFO, "", 0, "hello %s", ("you",), None)
    record.job, record.attempt = "team/tune", 2
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["job"], line["attempt"]) == ("hello you", "team/tune", 2)
