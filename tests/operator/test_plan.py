"""The decision, as a table of observations: no cluster, no clock."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from finetune_api.messages import Limits, Outcome, ProgressMessage, Stage
from finetune_api.status import Attempt, Phase, Progress, PublishedAdapter, Retries
from finetune_operator import names
from finetune_operator.manifests import limits_map
from finetune_operator.settings import AllowedScheduling, Settings
from finetune_operator.views import view_job

from tests.operator.objects import (
    NOW,
    SETTINGS,
    acts,
    conditions,
    created,
    decide,
    raw_attempt,
    raw_job,
    raw_pod,
    result,
    run_json,
    stamp,
    started,
    telling,
)

ADAPTER = PublishedAdapter(uri="s3://bucket/prefix/a", sha256="0" * 64, size_bytes=1, base_model="owner/name")


def attempt(number=1, reason="Running", start=0.0, end=None, **known):
    return Attempt.model_validate({"number": number, "reason": reason, "startTime": stamp(start),
                                   "endTime": stamp(end) if end is not None else None, **known}, strict=False)


# Before the start

def test_the_start_is_recorded_before_anything_is_made():
    decided = decide(raw_job())
    assert acts(decided) == []
    status = decided.status
    assert (status.start_time, status.started_generation, status.image) == (NOW, 1, "registry/trainer:1")
    assert status.cost.hourly_rate == Decimal("1.00")
    assert len(status.spec_hash) == 64
    assert telling(decided)[:2] == ("Starting", "Started")
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
def test_what_the_settings_do_not_have_is_refused_in_words(compute, words):
    decided = decide(raw_job(compute=compute))
    assert decided.status.start_time is None
    assert telling(decided)[:2] == ("Pending", "InvalidSpec")
    assert words in telling(decided)[2]
    assert conditions(decided)["Validated"] == "False"
    assert conditions(decided)["Stalled"] == "True"
    assert decided.events[0].kind == "Warning"


def test_what_the_settings_allow_is_taken_over():
    allowed = AllowedScheduling(service_account_names=("trainer",), priority_class_names=("low",),
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


def test_fields_of_a_newer_version_are_passed_over():
    raw = raw_job()
    raw["spec"]["training"] = {"newKnob": 1}
    assert decide(raw).status.start_time == NOW


def test_a_spec_that_cannot_be_read_is_told():
    raw = raw_job()
    raw["spec"]["method"] = {"type": "Telepathy"}
    assert "spec.method.type" in telling(decide(raw))[2]


# The first attempt

def test_the_first_attempt_is_its_configuration_its_limits_and_its_job():
    decided = decide(raw_job(started()))
    assert acts(decided) == ["create ConfigMap tune-1-11111111", "create ConfigMap tune-1-11111111-limits",
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
    assert content["accelerator"] == {"name": "nvidia-l4", "memoryBytes": 24 * 2**30, "hourlyRate": "1.00",
                                      "currency": "USD"}
    assert content["spec"]["training"]["epochs"] == 3.0


def test_the_pod_is_restricted_and_has_no_token():
    pod = created(decide(raw_job(started())), "Job")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}


def test_secrets_come_by_name_and_fixed_keys_only():
    sections = {"model": {"tokenSecretRef": {"name": "hub"}},
                "output": {"s3": {"credentialsSecretRef": {"name": "s3"}}},
                "evaluation": {"reference": {"url": "https://host/v1", "model": "gpt-4",
                                             "apiKeySecretRef": {"name": "openai"}}}}
    job = created(decide(raw_job(started(), **sections)), "Job")
    variables = {one["name"]: one["valueFrom"]["secretKeyRef"]
                 for one in job["spec"]["template"]["spec"]["containers"][0]["env"] if "valueFrom" in one}
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
    assert telling(waiting)[:2] == ("Queued", "WaitingForQuota")
    assert conditions(waiting)["Admitted"] == "False"


def test_spot_jobs_tolerate_preemptible_nodes():
    def keys(**compute):
        pod = created(decide(raw_job(started(), compute=compute)), "Job")["spec"]["template"]["spec"]
        return {one["key"] for one in pod["tolerations"]}

    assert keys() == {"nvidia.com/gpu"}
    assert "cloud.google.com/gke-spot" in keys(spot=True)


def test_several_nodes_are_an_indexed_job_that_meets_at_a_services_address():
    first = decide(raw_job(started(), compute={"nodes": 2}))
    assert acts(first) == ["create Service tune-1"]
    service = created(first, "Service")
    assert service["spec"]["publishNotReadyAddresses"] is True
    service["spec"]["clusterIP"] = "10.96.0.7"
    service["metadata"] |= {"uid": "service", "resourceVersion": "1"}
    decided = decide(raw_job(started(), compute={"nodes": 2}), service)
    assert acts(decided) == ["create ConfigMap tune-1-11111111", "create ConfigMap tune-1-11111111-limits",
                             "create Job tune-1"]
    job = created(decided, "Job")["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    variables = {one["name"]: one.get("value") for one in job["template"]["spec"]["containers"][0]["env"]}
    assert variables["FINETUNE_NODES"] == "2"
    assert variables["FINETUNE_RENDEZVOUS"] == "10.96.0.7:29400"


def test_a_pod_template_is_merged_in_by_name():
    settings = Settings(pod_template={
        "metadata": {"labels": {"team": "a"}},
        "spec": {"containers": [{"name": "trainer", "env": [{"name": "HTTPS_PROXY", "value": "http://p"}]},
                                {"name": "sidecar", "image": "s"}]}})
    template = created(decide(raw_job(started()), settings=settings), "Job")["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "a"
    trainer, sidecar = template["spec"]["containers"]
    assert sidecar == {"name": "sidecar", "image": "s"}
    assert {"name": "HTTPS_PROXY", "value": "http://p"} in trainer["env"]
    assert {"name": "HOME", "value": "/tmp"} in trainer["env"]


def test_numbers_of_an_earlier_job_of_that_name_are_passed_over():
    decided = decide(raw_job(started()), raw_attempt(1, uid="99999999"))
    assert "create Job tune-2" in acts(decided)


# While it runs

def test_a_pod_that_no_node_takes_is_explained_and_waits_for_free():
    decided = decide(raw_job(started()), raw_attempt(), raw_pod(unschedulable="0/3 nodes: Insufficient nvidia.com/gpu"),
                     at=9999)
    phase, reason, message = telling(decided)
    assert (phase, reason) == ("Queued", "Unschedulable")
    assert "nvidia-l4 (1 nvidia.com/gpu, nvidia.com/gpu.product=NVIDIA-L4)" in message
    assert "0/3 nodes: Insufficient nvidia.com/gpu" in message
    assert decided.status.cost.spent == 0


def test_progress_memory_and_cost_flow_into_the_status():
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=5, total_steps=10, percent=50, loss=0.5),
                              resumed_from_step=0)
    decided = decide(raw_job(started()), raw_attempt(), raw_pod(running=True), at=3600, progress=message, polled=3600)
    assert telling(decided) == ("Running", "Running", "attempt 1 is training")
    assert decided.status.progress.percent == 50
    assert decided.status.cost.spent == Decimal("1.0000")
    assert decided.status.attempts == (attempt(resumedFromStep=0, lastStep=5),)
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


@pytest.mark.parametrize(("stage", "phase"), [
    (Stage.LOADING, "Running"), (Stage.EVALUATING_BEFORE, "Evaluating"), (Stage.TRAINING, "Running"),
    (Stage.EVALUATING_AFTER, "Evaluating"), (Stage.EXPORTING, "Uploading"), (Stage.PUBLISHING, "Uploading"),
])
def test_the_phase_follows_the_stage(stage, phase):
    decided = decide(raw_job(started()), raw_attempt(), raw_pod(running=True), progress=ProgressMessage(stage=stage),
                     polled=10, at=10)
    assert decided.status.phase == phase


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
    assert not any(word.startswith(("create", "delete")) for word in acts(running))
    ended = [raw_attempt(ended="Failed"), raw_pod(exit_code=75, said=result(Outcome.STOPPED))]
    after = decide(job, *ended, settings=new, at=70).status
    following = decide(raw_job(after), *ended, settings=new, at=71)
    assert created(following, "Job")["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/trainer:1"
    assert run_json(following)["accelerator"]["hourlyRate"] == "1.00"


# How it ends

def test_success_is_told_with_everything_that_is_known():
    told = result(Outcome.SUCCEEDED, "trained 10 steps", step=10, total_steps=10, adapter=ADAPTER)
    decided = decide(raw_job(started()), raw_attempt(ended="Complete"), raw_pod(exit_code=0, said=told, at=1800),
                     at=1801)
    assert telling(decided) == ("Succeeded", "Succeeded", "trained 10 steps")
    assert conditions(decided) == {"Validated": "True", "Progressing": "False", "Reconciling": "False",
                                   "Succeeded": "True", "Failed": "False"}
    assert decided.status.adapter == ADAPTER
    assert decided.status.cost.spent == Decimal("0.5000")
    assert decided.status.completion_time is not None


def test_a_missed_gate_fails_and_keeps_the_adapter():
    told = result(Outcome.QUALITY_GATE, "a gain of 0.1", adapter=ADAPTER)
    decided = decide(raw_job(started()), raw_attempt(ended="Complete"), raw_pod(exit_code=0, said=told))
    assert telling(decided)[:2] == ("Failed", "QualityGate")
    assert decided.status.adapter == ADAPTER
    assert conditions(decided)["Stalled"] == "True"


FINAL = [
    (64, Outcome.BAD_CONFIG), (65, Outcome.BAD_DATA), (66, Outcome.MISSING_INPUT), (70, Outcome.DIVERGED),
    (73, Outcome.OUTPUT_NOT_WRITABLE),
]


@pytest.mark.parametrize(("code", "outcome"), FINAL)
def test_what_cannot_get_better_fails_at_once_in_the_trainers_words(code, outcome):
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"),
                     raw_pod(exit_code=code, said=result(outcome, "why")))
    assert telling(decided) == ("Failed", str(outcome), "why")


@pytest.mark.parametrize(("code", "_"), FINAL)
def test_without_the_trainers_words_the_code_is_explained(code, _):
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"), raw_pod(exit_code=code, said="gibberish"))
    assert decided.status.phase == "Failed"
    assert len(telling(decided)[2]) > 20


def test_out_of_host_memory_names_the_field():
    decided = decide(raw_job(started()), raw_attempt(ended="Failed"), raw_pod(exit_code=137, oom=True))
    assert telling(decided)[:2] == ("Failed", "HostOutOfMemory")
    assert "compute.memory" in telling(decided)[2]


def _through(status, *raws, at=70.0, **sections):
    """The pass that sees the end, then the one after it."""
    ended = decide(raw_job(status, **sections), *raws, at=at)
    return ended, decide(raw_job(ended.status, **sections), *raws, at=at)


def test_out_of_accelerator_memory_is_retried_once_with_the_smallest_plan():
    oom = [raw_attempt(ended="Failed"), raw_pod(exit_code=71, said=result(Outcome.OUT_OF_MEMORY, "too little"))]
    ended, following = _through(started(), *oom)
    assert telling(ended)[:2] == ("Starting", "Retrying")
    content = run_json(following)
    assert (content["spec"]["training"]["microBatchSize"], content["spec"]["training"]["gradientCheckpointing"]) == (
        1, "enabled")
    assert content["specHash"] == started().spec_hash, "the result is the same, so its checkpoints are good"
    second = [raw_attempt(2, ended="Failed"),
              raw_pod(2, exit_code=71, said=result(Outcome.OUT_OF_MEMORY, "too little"))]
    final = decide(raw_job(following.status), *oom, *second, at=200)
    assert telling(final)[:2] == ("Failed", "OutOfMemory")
    assert "quantize" in telling(final)[2]


def test_a_stop_is_retried_free_and_at_once():
    stopped = [raw_attempt(ended="Failed"),
               raw_pod(exit_code=75, said=result(Outcome.STOPPED, step=7, checkpoint_step=7),
                       disruption="node drain")]
    ended, following = _through(started(), *stopped)
    assert "node drain" in telling(ended)[2]
    assert "create Job tune-2" in acts(following)
    assert following.status.retries == Retries()
    assert following.status.attempts == (attempt(reason="Stopped", end=60, resumedFromStep=0, lastStep=7),)


def test_lost_steps_are_told():
    records = (attempt(1, "Stopped", end=60, lastStep=7, resumedFromStep=0),)
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=6, total_steps=10, percent=60),
                              resumed_from_step=5)
    decided = decide(raw_job(started(attempts=records)), raw_attempt(2), raw_pod(2, scheduled=70, running=True),
                     progress=message, polled=80, attempt=2, at=80)
    assert decided.status.attempts[1].lost_steps == 2
    assert decided.status.attempts[1].resumed_from_step == 5


def test_ten_free_retries_in_a_row_without_a_newer_checkpoint_are_enough():
    stop = [raw_attempt(ended="Failed"), raw_pod(exit_code=75, said=result(Outcome.STOPPED))]
    tenth = decide(raw_job(started(retries=Retries(without_progress=9))), *stop, at=70)
    assert telling(tenth)[1] == "Retrying"
    eleventh = decide(raw_job(started(retries=Retries(without_progress=10))), *stop, at=70)
    assert telling(eleventh)[:2] == ("Failed", "NoProgress")
    newer = [stop[0], raw_pod(exit_code=75, said=result(Outcome.STOPPED, checkpoint_step=4))]
    assert decide(raw_job(started(retries=Retries(without_progress=10))), *newer, at=70).status.retries == Retries()


@pytest.mark.parametrize("pods", [
    [raw_pod(exit_code=1)], [raw_pod(exit_code=137)], [raw_pod(exit_code=139)], [], [raw_pod(running=True)],
], ids=["internal", "killed", "crash", "pod gone", "node lost"])
def test_unknown_endings_are_retried_with_a_growing_delay_up_to_the_limit(pods):
    raws = [raw_attempt(ended="Failed"), *pods]
    ended, following = _through(started(), *raws, at=61)
    assert telling(ended)[1] == "Retrying"
    assert ended.status.retries.counted == 1
    assert following.actions == (), "the first retry waits ten seconds"
    end = ended.status.attempts[-1].end_time
    wait = (end - NOW).total_seconds() + 10
    later = decide(raw_job(ended.status), *raws, at=wait)
    assert "create Job tune-2" in acts(later)
    last = decide(raw_job(started(retries=Retries(counted=3))), *raws, at=70)
    assert last.status.phase == "Failed"
    assert "retried 3 times, which is runPolicy.backoffLimit" in telling(last)[2]


def test_a_lost_result_is_fetched_by_another_attempt():
    ended, _ = _through(started(), raw_attempt(ended="Complete"), raw_pod(exit_code=0, said=""))
    assert "adopts what is published" in telling(ended)[2]


def test_the_backstop_names_the_field():
    decided = decide(raw_job(started(), budget={"maxDuration": "1h"}),
                     raw_attempt(ended="Failed", reason="DeadlineExceeded"))
    assert telling(decided)[:2] == ("Failed", "DeadlineExceeded")
    job = created(decide(raw_job(started(), budget={"maxDuration": "1h"})), "Job")
    assert job["spec"]["activeDeadlineSeconds"] == 3 * 3600


@pytest.mark.parametrize(("waiting", "reason", "words"), [
    (("ImagePullBackOff", 'Back-off pulling image "x"'), "ImagePullFailed", 'Back-off pulling image "x"'),
    (("CreateContainerConfigError", 'secret "s3" not found'), "ContainerConfigError", "create the Secret"),
    (("ContainerCreating", ""), "StartTimeout", "kubectl describe pod"),
])
def test_a_pod_that_never_starts_fails_the_job_after_a_while_in_the_kubelets_words(waiting, reason, words):
    raws = [raw_attempt(), raw_pod(waiting=waiting)]
    first = decide(raw_job(started()), *raws, at=6)
    assert first.status.phase == "Starting"
    soon = decide(raw_job(first.status), *raws, at=599)
    assert soon.requeue_after.total_seconds() == 1
    late = decide(raw_job(started()), *raws, at=600)
    assert telling(late)[:2] == ("Failed", reason)
    assert words in telling(late)[2]
    assert late.status.attempts == (attempt(reason=reason, end=600),)
    assert late.status.cost.spent == Decimal("0.1667"), "the node was held for ten minutes"
    assert acts(late) == [], "first the status, then the deletion: a pass that is killed between must not retry"
    assert acts(decide(raw_job(late.status), *raws, at=601)) == ["delete Job tune-1"]


def test_when_one_node_fails_its_ending_explains_the_others():
    raws = [raw_attempt(ended="Failed"), raw_pod(index=0, exit_code=75, said=result(Outcome.STOPPED)),
            raw_pod(index=1, exit_code=65, said=result(Outcome.BAD_DATA, "row 7"))]
    assert telling(decide(raw_job(started(), compute={"nodes": 2}), *raws)) == ("Failed", "BadData", "row 7")


def test_a_job_somebody_deleted_is_a_counted_retry():
    decided = decide(raw_job(started(attempts=(attempt(),))), at=50)
    assert telling(decided)[1] == "Retrying"
    assert decided.status.attempts[0].reason == "JobDeleted"


# Suspend and resume

def test_suspend_deletes_the_attempt_and_resume_makes_the_next():
    suspend = {"runPolicy": {"suspend": True}}
    running = [raw_attempt(), raw_pod(running=True)]
    asked = decide(raw_job(started(), **suspend), *running, at=30)
    assert acts(asked) == ["delete Job tune-1"]
    assert telling(asked)[1] == "Stopping"
    leaving = [raw_attempt(deleting=True), raw_pod(running=True)]
    assert acts(decide(raw_job(asked.status, **suspend), *leaving, at=31)) == []
    gone = [raw_attempt(deleting=True), raw_pod(exit_code=75, said=result(Outcome.STOPPED, step=3), at=40)]
    suspended = decide(raw_job(asked.status, **suspend), *gone, at=41)
    assert suspended.status.phase == "Suspended"
    assert suspended.status.attempts[0].reason == "Stopped"
    assert suspended.status.retries == Retries()
    assert decide(raw_job(suspended.status, **suspend), at=100).status == suspended.status
    assert "create Job tune-2" in acts(decide(raw_job(suspended.status), at=200))


def test_a_suspend_whose_last_words_were_missed_counts_for_nothing():
    decided = decide(raw_job(started(attempts=(attempt(),)), runPolicy={"suspend": True}), at=50)
    assert decided.status.phase == "Suspended"
    assert decided.status.retries == Retries()


def test_a_suspend_that_comes_too_late_changes_nothing():
    told = result(Outcome.SUCCEEDED, "done", adapter=ADAPTER)
    decided = decide(raw_job(started(), runPolicy={"suspend": True}), raw_attempt(ended="Complete"),
                     raw_pod(exit_code=0, said=told))
    assert decided.status.phase == "Succeeded"


# Budget

def test_a_budget_that_is_spent_buys_no_further_attempt():
    records = (attempt(1, "Killed", end=3600),)
    decided = decide(raw_job(started(attempts=records), budget={"maxCost": "1.00"}), at=4000)
    assert telling(decided)[:2] == ("Failed", "BudgetSpent")
    assert "1.0000 USD of budget.maxCost 1.00" in telling(decided)[2]


def test_the_cost_counts_every_accelerator_and_the_jobs_own_rate():
    compute, budget = {"nodes": 2, "gpusPerNode": 4}, {"hourlyRate": "2.00"}
    status = decide(raw_job(compute=compute, budget=budget)).status
    decided = decide(raw_job(status, compute=compute, budget=budget), raw_attempt(), raw_pod(running=True),
                     polled=3600, at=3600)
    assert decided.status.cost.spent == Decimal(16)


def test_of_many_attempts_ten_are_listed_and_all_are_paid_for():
    status = started()
    for number in range(1, 14):
        raws = [raw_attempt(number, ended="Failed", at=number * 100 + 36),
                raw_pod(number, scheduled=number * 100, exit_code=75, at=number * 100 + 36,
                        said=result(Outcome.STOPPED, checkpoint_step=number))]
        status = decide(raw_job(status), *raws, at=number * 100 + 40).status
    assert [one.number for one in status.attempts] == list(range(4, 14))
    assert status.cost.spent == Decimal("0.1300")
    assert decide(raw_job(status), at=5001).status.cost.spent == Decimal("0.1300")


# Afterwards

def test_a_finished_job_is_never_run_again():
    done = started(completion_time=NOW, phase=Phase.SUCCEEDED)
    assert decide(raw_job(done), at=99999).actions == ()


def test_children_go_after_the_ttl():
    done = started(completion_time=NOW, phase=Phase.SUCCEEDED)
    limits = limits_map(view_job(raw_job(done)), 1, Limits())
    limits["metadata"] |= {"uid": "limits", "resourceVersion": "1"}
    raws = [raw_attempt(ended="Complete"), raw_pod(exit_code=0), limits]
    early = decide(raw_job(done, runPolicy={"ttlSecondsAfterFinished": 100}), *raws, at=40)
    assert (acts(early), early.requeue_after.total_seconds()) == ([], 60)
    late = decide(raw_job(done, runPolicy={"ttlSecondsAfterFinished": 100}), *raws, at=100)
    assert acts(late) == ["delete Job tune-1", "delete ConfigMap tune-1-11111111-limits",
                          "delete ConfigMap tune-1-11111111"]


def test_nothing_is_done_about_a_job_that_is_being_deleted():
    decided = decide(raw_job(started(), deleting=True), raw_attempt(ended="Failed"))
    assert (decided.actions, decided.events, decided.status) == ((), (), started())


def test_an_event_is_told_once_for_each_reason():
    raws = [raw_attempt(), raw_pod(unschedulable="0/1 nodes")]
    first = decide(raw_job(started()), *raws)
    assert [note.reason for note in first.events] == ["Unschedulable"]
    second = decide(raw_job(first.status), raws[0], raw_pod(unschedulable="0/2 nodes"))
    assert second.events == ()
    assert "0/2 nodes" in telling(second)[2]


def test_every_child_carries_the_labels_that_are_watched():
    for action in decide(raw_job(started(), compute={"nodes": 2})).actions:
        labels = action.manifest["metadata"]["labels"]
        assert labels[names.MANAGED_BY] == names.MANAGER
        assert labels[names.UID_LABEL]
