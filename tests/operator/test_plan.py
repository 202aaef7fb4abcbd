"""The decision up to the end of an attempt, as a table of observations: no cluster, no clock."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from finetune_api.messages import Outcome, ProgressMessage, RunConfig, Stage
from finetune_api.status import Phase, Progress
from finetune_operator.settings import Allowed, Settings
from finetune_operator.settings.accelerators import Accelerator

from tests.operator.objects import (
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
)

# Before the start

def test_the_start_is_recorded_before_anything_is_created():
    decided = decide(raw_job())
    assert actions_of(decided) == []
    status = decided.status
    assert (status.start_time, status.started_generation, status.image) == (NOW, 1, "registry/trainer:1")
    assert status.cost.hourly_rate == Decimal("1.00")
    assert len(status.spec_hash) == 64
    assert reported(decided)[:2] == ("Starting", "Started")
    assert conditions(decided) == {"Validated": "True", "Progressing": "True", "Reconciling": "True"}
    assert [(note.kind, note.reason) for note in decided.events] == [("Normal", "Started")]


@pytest.mark.parametrize(("compute", "words"), [
    ({"accelerator": "tpu"}, "tpu is not in the catalogue; write one of cpu, nvidia-a100-40"),
    ({"accelerator": "cpu", "gpusPerNode": 2}, "gpusPerNode: cpu has no GPUs; leave it out"),
    ({"serviceAccountName": "admin"}, "serviceAccountName: the operator's settings do not allow admin; leave it out"),
    ({"priorityClassName": "high"}, "priorityClassName: the operator's settings do not allow high"),
    ({"nodeSelector": {"team": "b"}}, "nodeSelector: the operator's settings do not allow team"),
    ({"tolerations": [{"operator": "Exists"}]}, "tolerations: the operator's settings do not allow (every taint)"),
])
def test_a_value_that_the_settings_do_not_permit_is_refused_with_its_field(compute, words):
    decided = decide(raw_job(compute=compute))
    assert decided.status.start_time is None
    assert reported(decided)[:2] == ("Pending", "InvalidSpec")
    assert words in reported(decided)[2]
    assert conditions(decided)["Validated"] == "False"
    assert conditions(decided)["Stalled"] == "True"
    assert decided.events[0].kind == "Warning"


def test_a_reward_plugin_runs_only_where_the_settings_allow_it():
    method = {"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "by-length"}}}
    refused = decide(raw_job(method=method))
    assert reported(refused)[:2] == ("Pending", "InvalidSpec")
    assert ("spec.method.reft.reward.plugin: the operator's settings do not allow by-length; use another reward, or "
            "have it added to settings.allowed.rewardPlugins") in reported(refused)[2]
    settings = Settings(allowed=Allowed(reward_plugins=("by-length", "by-colour")))
    status = decide(raw_job(method=method), settings=settings).status
    made = decide(raw_job(status, method=method), settings=settings)
    assert run_json(made)["allowedPlugins"] == ["by-length", "by-colour"]


@pytest.mark.parametrize(("hosts", "said"), [((), ""), (("a.example", "10.1.2.3"), "a.example,10.1.2.3")])
def test_a_trainer_knows_from_which_private_hosts_data_may_come(hosts, said):
    settings = Settings(allowed=Allowed(dataset_hosts=hosts))
    status = decide(raw_job(), settings=settings).status
    trainer = created(decide(raw_job(status), settings=settings), "Job")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "FINETUNE_DATASET_HOSTS", "value": said} in trainer["env"]


def test_a_trainer_knows_how_many_processors_its_pod_asked_for():
    status = decide(raw_job()).status
    trainer = created(decide(raw_job(status)), "Job")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "FINETUNE_CPUS", "valueFrom": {"resourceFieldRef": {
        "resource": "requests.cpu", "divisor": "1"}}} in trainer["env"]


def test_a_value_that_the_settings_permit_reaches_the_pod():
    allowed = Allowed(service_account_names=("trainer",), priority_class_names=("low",),
                      node_labels=("zone",), toleration_keys=("team",))
    settings = Settings(allowed=allowed)
    compute = {"serviceAccountName": "trainer", "priorityClassName": "low", "nodeSelector": {"zone": "a"},
               "tolerations": [{"key": "team", "operator": "Exists"}]}
    status = decide(raw_job(compute=compute), settings=settings).status
    pod = created(decide(raw_job(status, compute=compute), settings=settings), "Job")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["priorityClassName"] == "low"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4", "zone": "a"}
    assert {"key": "team", "operator": "Exists"} in pod["tolerations"]


def test_a_job_that_was_refused_starts_once_it_is_edited():
    refused = decide(raw_job(compute={"accelerator": "tpu"})).status
    decided = decide(raw_job(refused, generation=2))
    assert decided.status.start_time == NOW
    assert "Stalled" not in conditions(decided)


def test_a_suspended_job_is_not_started():
    decided = decide(raw_job(runPolicy={"suspend": True}))
    assert (decided.status.phase, decided.status.start_time) == (Phase.SUSPENDED, None)
    assert conditions(decided)["Reconciling"] == "False"
    assert "Stalled" not in conditions(decided)


def test_fields_of_a_newer_version_are_ignored():
    raw = raw_job()
    raw["spec"]["training"] = {"newKnob": 1}
    assert decide(raw).status.start_time == NOW


def test_a_spec_that_cannot_be_read_is_reported():
    raw = raw_job()
    raw["spec"]["method"] = {"type": "Telepathy"}
    assert "spec.method.type" in reported(decide(raw))[2]


# The first attempt

def test_the_first_attempt_is_its_configuration_its_limits_and_its_job():
    decided = decide(raw_job(started()))
    assert actions_of(decided) == ["create ConfigMap tune-1-11111111", "create ConfigMap tune-1-11111111-limits",
                             "create Job tune-1"]
    job = created(decided, "Job")
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert "suspend" not in job["spec"]
    assert "ttlSecondsAfterFinished" not in job["spec"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry/trainer:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner["controller"] and owner["name"] == "tune"
    content = run_json(decided)
    assert content["attempt"] == 1
    assert content["specHash"] == started().spec_hash
    assert content["accelerator"] == {"name": "nvidia-l4", "memoryBytes": 24 * 2**30, "hostMemoryBytes": 24 * 2**30,
                                      "hourlyRate": "1.00", "currency": "USD"}
    assert content["spec"]["training"]["epochs"] == 3.0


@pytest.mark.parametrize(("resource", "is_gpu"), [("nvidia.com/gpu", True), (None, False)])
def test_the_trainer_is_told_whether_its_pod_requests_a_gpu(resource, is_gpu):
    settings = SETTINGS.model_copy(update={"accelerators": {"nvidia-l4": Accelerator(resource=resource)}})
    content = run_json(decide(raw_job(started()), settings=settings))
    # A run that was planned for a GPU ends where there is none, also where the catalogue does not say its memory.
    assert RunConfig.read(json.dumps(content)).accelerator.is_gpu is is_gpu


def test_the_pod_is_restricted_and_has_no_token():
    pod = created(decide(raw_job(started())), "Job")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}


def test_secrets_are_mounted_by_name_with_fixed_keys_only():
    sections = {"model": {"tokenSecretRef": {"name": "hub"}},
                "output": {"s3": {"credentialsSecretRef": {"name": "s3"}}},
                "evaluation": {"reference": {"url": "https://host/v1", "model": "gpt-4",
                                             "apiKeySecretRef": {"name": "openai"}}}}
    job = created(decide(raw_job(started(), **sections)), "Job")
    variables = {one["name"]: one["valueFrom"]["secretKeyRef"]
                 for one in job["spec"]["template"]["spec"]["containers"][0]["env"]
                 if "secretKeyRef" in one.get("valueFrom", {})}
    assert variables == {
        "HF_TOKEN": {"name": "hub", "key": "HF_TOKEN"},
        "AWS_ACCESS_KEY_ID": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"},
        "AWS_SECRET_ACCESS_KEY": {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"},
        "AWS_SESSION_TOKEN": {"name": "s3", "key": "AWS_SESSION_TOKEN", "optional": True},
        "OPENAI_API_KEY": {"name": "openai", "key": "OPENAI_API_KEY"},
    }


def test_claims_are_read_only_but_for_the_output():
    sections = {"model": {"source": "pvc://models/m"}, "dataset": {"source": "pvc://data/rows.jsonl"},
                "output": {"uri": "pvc://data/runs"}}
    pod = created(decide(raw_job(started(), **sections)), "Job")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["readOnly"] for mount in pod["containers"][0]["volumeMounts"]
              if mount["name"].startswith("claim")}
    assert mounts == {"/pvc/data": False, "/pvc/models": True}


def test_with_a_queue_the_job_is_suspended_and_labelled_for_kueue():
    job = created(decide(raw_job(started(), compute={"queueName": "team-queue"})), "Job")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    waiting = decide(raw_job(started(), compute={"queueName": "team-queue"}), raw_attempt(suspended=True))
    assert reported(waiting)[:2] == ("Queued", "WaitingForQuota")
    assert conditions(waiting)["Admitted"] == "False"


def test_spot_jobs_tolerate_preemptible_nodes():
    def keys(**compute):
        pod = created(decide(raw_job(started(), compute=compute)), "Job")["spec"]["template"]["spec"]
        return {one["key"] for one in pod["tolerations"]}

    assert keys() == {"nvidia.com/gpu"}
    assert "cloud.google.com/gke-spot" in keys(spot=True)


def test_several_nodes_are_an_indexed_job_with_a_service_for_the_rendezvous():
    first = decide(raw_job(started(), compute={"nodes": 2}))
    assert actions_of(first) == ["create Service tune-1"]
    service = created(first, "Service")
    assert service["spec"]["publishNotReadyAddresses"] is True
    service["spec"]["clusterIP"] = "10.96.0.7"
    service["metadata"] |= {"uid": "service", "resourceVersion": "1"}
    decided = decide(raw_job(started(), compute={"nodes": 2}), service)
    assert actions_of(decided) == ["create ConfigMap tune-1-11111111", "create ConfigMap tune-1-11111111-limits",
                             "create Job tune-1"]
    job = created(decided, "Job")["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    variables = {one["name"]: one.get("value") for one in job["template"]["spec"]["containers"][0]["env"]}
    assert variables["FINETUNE_NODES"] == "2"
    assert variables["FINETUNE_RENDEZVOUS"] == "10.96.0.7:29400"


def test_numbers_of_an_earlier_job_of_that_name_are_skipped():
    decided = decide(raw_job(started()), raw_attempt(1, uid="99999999"))
    assert "create Job tune-2" in actions_of(decided)


# While it runs

def test_a_pod_that_no_node_can_take_is_explained_and_waits_at_no_cost():
    decided = decide(raw_job(started()), raw_attempt(), raw_pod(unschedulable="0/3 nodes: Insufficient nvidia.com/gpu"),
                     at=9999)
    phase, reason, message = reported(decided)
    assert (phase, reason) == ("Queued", "Unschedulable")
    assert "nvidia-l4 (1 nvidia.com/gpu, nvidia.com/gpu.product=NVIDIA-L4)" in message
    assert "0/3 nodes: Insufficient nvidia.com/gpu" in message
    assert decided.status.cost.spent == 0


def test_the_status_has_progress_memory_and_cost():
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=5, total_steps=10, percent=50, loss=0.5),
                              resumed_from_step=0)
    decided = decide(raw_job(started()), raw_attempt(), raw_pod(running=True), at=3600, progress=message, polled=3600)
    assert reported(decided) == ("Running", "Running", "attempt 1 is training")
    assert decided.status.progress.percent == 50
    assert decided.status.cost.spent == Decimal("1.0000")
    assert brief_records(decided) == (attempt(resumedFromStep=0, lastStep=5),)
    assert conditions(decided)["Admitted"] == "True"


def test_an_idle_pass_does_nothing():
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=5, total_steps=10, percent=50, loss=0.5))
    raws = [raw_attempt(), raw_pod(running=True)]
    first = decide(raw_job(started()), *raws, progress=message, polled=10, at=10)
    child = next(action.manifest for action in first.actions)
    child["metadata"] |= {"uid": "limits", "resourceVersion": "1"}
    again = decide(raw_job(first.status), *raws, child, progress=message, polled=10, at=11)
    assert again.status == first.status
    assert again.actions == () and again.events == ()


@pytest.mark.parametrize(("stage", "phase", "activity"), [
    (Stage.LOADING, "Running", "loading"),
    (Stage.EVALUATING_BEFORE, "Evaluating", "evaluating the held-out rows before training"),
    (Stage.TRAINING, "Running", "training"),
    (Stage.PPO, "Running", "training with PPO"),
    (Stage.EVALUATING_AFTER, "Evaluating", "evaluating the held-out rows after training"),
    (Stage.EXPORTING, "Uploading", "exporting the result"),
    (Stage.PUBLISHING, "Uploading", "publishing the result"),
])
def test_the_phase_and_the_message_follow_the_stage(stage, phase, activity):
    decided = decide(raw_job(started()), raw_attempt(), raw_pod(running=True), progress=ProgressMessage(stage=stage),
                     polled=10, at=10)
    assert reported(decided) == (phase, phase, f"attempt 1 is {activity}")


def test_a_lowered_budget_reaches_the_limits():
    raws = [raw_attempt(), raw_pod(running=True)]
    decided = decide(raw_job(started(), budget={"maxCost": "0.50", "maxDuration": "2h"}), *raws,
                     progress=ProgressMessage(stage=Stage.TRAINING), polled=10, at=10)
    (action,) = decided.actions
    limits = json.loads(action.manifest["data"]["limits.json"])
    assert limits == {"stopAt": "2026-01-01T14:00:00Z", "maxCost": "0.50", "spentBefore": "0.0000",
                      "hourlyRate": "1.00", "stop": False}


def test_the_image_is_pinned_once_it_was_pulled():
    decided = decide(raw_job(started()), raw_attempt(),
                     raw_pod(running=True, image_id="registry/trainer@sha256:" + "a" * 64))
    assert decided.status.image == "registry/trainer@sha256:" + "a" * 64


def test_an_engine_has_an_image_of_its_own_frozen_at_the_start():
    settings = SETTINGS.model_copy(update={"unsloth_image": "registry/unsloth:1"})
    job = raw_job(engine="unsloth")
    status = decide(job, settings=settings).status
    assert status.image == "registry/unsloth:1"
    later = settings.model_copy(update={"unsloth_image": "registry/unsloth:2"})
    following = decide(raw_job(status, engine="unsloth"), settings=later)
    assert created(following, "Job")["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/unsloth:1"


def test_new_settings_touch_no_running_attempt_and_no_later_one():
    new = Settings(trainer_image="registry/trainer:2", accelerators={
        "nvidia-l4": SETTINGS.accelerators["nvidia-l4"].model_copy(update={"hourly_price": Decimal(9)})})
    job = raw_job(started())
    running = decide(job, raw_attempt(), raw_pod(running=True), settings=new, at=10)
    assert not any(word.startswith(("create", "delete")) for word in actions_of(running))
    ended = [raw_attempt(ended="Failed"), raw_pod(exit_code=75, said=result(Outcome.STOPPED))]
    after = decide(job, *ended, settings=new, at=70).status
    following = decide(raw_job(after), *ended, settings=new, at=71)
    assert created(following, "Job")["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/trainer:1"
    assert run_json(following)["accelerator"]["hourlyRate"] == "1.00"
