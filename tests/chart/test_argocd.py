"""Jobs under GitOps: health as Argo CD and kstatus compute it, from what the operator's real decisions write."""

from __future__ import annotations

from typing import Any

import lupa
import pytest
import yaml
from finetune_api.experiment.status import UNSEEN_EXPERIMENT
from finetune_api.messages import Outcome, ProgressMessage, Stage
from finetune_api.reasons import Reason
from finetune_api.status import UNSEEN_STATUS, Phase, Progress
from finetune_operator.decide.conditions import ConditionReport, set_conditions

from charts.generate import HEALTH
from tests.cluster.waiting import wait_for
from tests.operator.experiment_simulation import Simulation, checked
from tests.operator.objects import NOW, decide, raw_attempt, raw_job, raw_pod, result, started
from tests.operator.work import DONE, Work

FOLDER = HEALTH.parent
RUNNING = (raw_attempt(), raw_pod(running=True))
SUSPEND = {"runPolicy": {"suspend": True}}


def at(stage):
    return decide(raw_job(started()), *RUNNING, polled=2, progress=ProgressMessage(
        stage=stage, progress=Progress(step=1, total_steps=2, percent=50))).status


RECORDED = {
    "not looked at": UNSEEN_STATUS,
    Phase.PENDING: decide(raw_job(compute={"accelerator": "tpu"})).status,
    Phase.PREFLIGHT: set_conditions(
        decide(raw_job()).status, ConditionReport(Phase.PREFLIGHT, Reason.PREFLIGHT, "data are checked"), 1, NOW),
    Phase.QUEUED: decide(raw_job(started()), raw_attempt(), raw_pod(unschedulable="0/1 nodes")).status,
    Phase.STARTING: decide(raw_job()).status,
    Phase.RUNNING: at(Stage.TRAINING),
    Phase.EVALUATING: at(Stage.EVALUATING_AFTER),
    Phase.UPLOADING: at(Stage.PUBLISHING),
    Phase.SUSPENDED: decide(raw_job(started(), **SUSPEND)).status,
    Phase.SUCCEEDED: decide(raw_job(started()), raw_attempt(ended="Complete"),
                            raw_pod(exit_code=0, said=result(Outcome.SUCCEEDED))).status,
    Phase.FAILED: decide(raw_job(started()), raw_attempt(ended="Failed"),
                         raw_pod(exit_code=65, said=result(Outcome.BAD_DATA, "row 7 has no answer"))).status,
}
"""A status of each phase."""

ARGO_CD = {
    "not looked at": "Progressing", Phase.PENDING: "Degraded", Phase.SUSPENDED: "Suspended",
    Phase.SUCCEEDED: "Healthy", Phase.FAILED: "Degraded",
}
KSTATUS = {
    Phase.PENDING: "Failed", Phase.SUSPENDED: "Current", Phase.SUCCEEDED: "Current",
    Phase.FAILED: "Failed",
}


def argo_cd_health(job):
    """What Lua makes of a job, in the way in which Argo CD calls it: `obj` is a global, the last value is returned."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)

    def table(value: Any) -> Any:
        if isinstance(value, dict):
            return lua.table_from({key: table(one) for key, one in value.items()})
        return lua.table_from([table(one) for one in value]) if isinstance(value, list) else value

    lua.globals().obj = table(job)
    return lua.execute(HEALTH.read_text())


def kstatus(job):
    """The documented rules of kstatus (sigs.k8s.io/cli-utils, pkg/kstatus) for a resource of no built-in kind."""
    if "deletionTimestamp" in job["metadata"]:
        return "Terminating"
    status = job.get("status", {})
    if status.get("observedGeneration", job["metadata"]["generation"]) != job["metadata"]["generation"]:
        return "InProgress"
    for condition in status.get("conditions", []):
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    ready = next((one["status"] for one in status.get("conditions", []) if one["type"] == "Ready"), "True")
    return "Current" if ready == "True" else "InProgress"


def test_there_is_a_status_of_every_phase():
    for phase in Phase:
        assert RECORDED[phase].phase is phase


@pytest.mark.parametrize("phase", RECORDED)
def test_argo_cd_and_kstatus_see_what_is_the_case(phase):
    job = raw_job(RECORDED[phase])
    assert argo_cd_health(job).status == ARGO_CD.get(phase, "Progressing")
    assert kstatus(job) == KSTATUS.get(phase, "InProgress")


@pytest.mark.parametrize(("state", "argo_cd", "of_kstatus"), [
    ("not looked at", "Progressing", "InProgress"), ("checked", "Progressing", "InProgress"),
    ("running", "Progressing", "InProgress"), ("suspended", "Suspended", "Current"),
    ("above its budget", "Degraded", "Failed"), ("succeeded", "Healthy", "Current"), ("failed", "Degraded", "Failed"),
])
def test_an_experiment_is_seen_as_it_is(state, argo_cd, of_kstatus):
    simulation = Simulation("one", template={}, budget={"maxCost": "2"}, suspend=state == "suspended")
    if state == "not looked at":
        simulation.raw["status"] = UNSEEN_EXPERIMENT
    else:
        simulation.settle()
    if state in ("above its budget", "running", "succeeded", "failed"):
        simulation.job_of("one")["status"] |= checked("3" if state == "above its budget" else "1")
        simulation.settle()
    if state in ("succeeded", "failed"):
        (running,) = simulation.running()
        simulation.advance(running, 1, 1.0 if state == "succeeded" else -1.0)
        simulation.settle()
    assert argo_cd_health(simulation.raw).status == argo_cd
    assert kstatus(simulation.raw) == of_kstatus


def test_the_health_says_why():
    assert argo_cd_health(raw_job(RECORDED[Phase.FAILED])).message == "BadData: row 7 has no answer"
    assert "tpu is not in the catalogue" in argo_cd_health(raw_job(RECORDED[Phase.PENDING])).message


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.RUNNING])
def test_a_change_counts_once_the_operator_has_looked_at_it(phase):
    changed = raw_job(RECORDED[phase], generation=2, runPolicy={"backoffLimit": 5})
    assert argo_cd_health(changed).status == "Progressing"
    assert kstatus(changed) == "InProgress"
    seen = raw_job(decide(changed, *(RUNNING if phase is Phase.RUNNING else ())).status, generation=2)
    assert argo_cd_health(seen).status == ARGO_CD.get(phase, "Progressing")
    assert kstatus(seen) == KSTATUS.get(phase, "InProgress")


def test_the_patch_of_argo_cds_configmap_carries_the_script():
    data = yaml.safe_load((FOLDER / "argocd-cm.yaml").read_text())["data"]
    assert data == {f"resource.customizations.health.finetune.dev_{kind}": HEALTH.read_text()
                    for kind in ("FineTuneJob", "FineTuneExperiment")}


@pytest.mark.parametrize("name", ["operator", "jobs"])
def test_the_applications_apply_on_the_server_and_have_no_waves_to_wait_in(name):
    text = (FOLDER / f"application-{name}.yaml").read_text()
    spec = yaml.safe_load(text)["spec"]
    assert "ServerSideApply=true" in spec["syncPolicy"]["syncOptions"]
    assert "sync-wave" not in text


GIT = "--field-manager=argocd-controller"


def test_after_a_whole_run_git_finds_no_difference_and_a_ttl_runs_nothing_again(control_plane, api, release, operator):
    namespace = control_plane.namespace("team")
    sample = yaml.safe_load((FOLDER.parent / "samples" / "finetunejob.yaml").read_text())
    sample["metadata"]["name"] = "tune"
    sample["spec"]["training"]["learningRate"] = 2e-4  # Text to PyYAML, a number to Kubernetes.
    sample["spec"]["runPolicy"] = {**sample["spec"].get("runPolicy", {}), "preflight": "Skip",
                                   "ttlSecondsAfterFinished": 1}
    file = control_plane.folder / "git.yaml"
    file.write_text(yaml.safe_dump(sample))

    def sync(*options):
        control_plane.kubectl("apply", "--server-side", GIT, "-n", namespace, "-f", file, *options)

    sync()
    work = Work(api, namespace)
    work.until("Running")
    work.end(0, DONE)
    work.until("Succeeded")
    wait_for(lambda: not work.jobs(), "the ttl to take the children")
    before = control_plane.get("finetunejob", "tune", "-n", namespace)
    difference = control_plane.kubectl("diff", "--server-side", GIT, "-n", namespace, "-f", file, check=False)
    assert (difference.returncode, difference.stdout) == (0, "")
    passes = _passes(operator)
    sync()
    api.patch("FineTuneJob", namespace, "tune", {"metadata": {"labels": {"looked": "again"}}})
    wait_for(lambda: _passes(operator) > passes, "the operator to look again")
    after = control_plane.get("finetunejob", "tune", "-n", namespace)
    assert work.jobs() == []
    assert (after["status"], after["metadata"]["generation"]) == (before["status"], before["metadata"]["generation"])


def test_git_finds_no_difference_in_an_experiment_whose_jobs_run(control_plane, api, release, operator):
    namespace = control_plane.namespace("team")
    sample = yaml.safe_load((FOLDER.parent / "samples" / "experiment-mistral.yaml").read_text())
    template = sample["spec"]["template"]["spec"]
    template["training"]["learningRate"] = 2e-4
    template["runPolicy"] = {"preflight": "Skip"}
    file = control_plane.folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(sample))
    control_plane.kubectl("apply", "--server-side", GIT, "-n", namespace, "-f", file)
    wait_for(lambda: [job for job in api.list("FineTuneJob", namespace) if job["status"]["phase"] == "Running"],
             "the first job to run")
    difference = control_plane.kubectl("diff", "--server-side", GIT, "-n", namespace, "-f", file, check=False)
    assert (difference.returncode, difference.stdout) == (0, "")
    experiment = api.get("FineTuneExperiment", namespace, sample["metadata"]["name"])
    assert argo_cd_health(experiment).status == "Progressing"
    assert {owner["controller"] for job in api.list("FineTuneJob", namespace)
            for owner in job["metadata"]["ownerReferences"]} == {True}, "Argo CD shows them below the experiment"


def test_a_finished_jobs_policy_can_change_and_is_told_as_seen(control_plane, api, release, operator):
    namespace = control_plane.namespace("team")
    work = Work(api, namespace)
    work.apply()
    work.until("Running")
    work.end(0, DONE)
    work.until("Succeeded")
    work.change(runPolicy={"ttlSecondsAfterFinished": 3600})
    job = wait_for(lambda: (seen := api.get("FineTuneJob", namespace, "tune"))["status"]["observedGeneration"] == 2
                   and seen, "the change to be seen")
    assert argo_cd_health(job).status == "Healthy"


def _passes(operator):
    return operator.metrics()[("finetune_operator_reconciles_total", frozenset({("result", "ok")}))]


@pytest.fixture(scope="module")
def operator(release):
    running = release.operator()
    yield running
    running.stop()
