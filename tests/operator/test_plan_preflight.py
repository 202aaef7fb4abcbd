"""The check before the start, as a table of observations: no cluster, no clock."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from finetune_api.messages import JobEstimate, Outcome, PreflightResult, PreflightVerdict, Result
from finetune_api.status import Phase, PreflightStatus
from finetune_operator import names
from finetune_operator.decide.plan import plan
from finetune_operator.decide.preflight.plan import claims_to_look_up
from finetune_operator.observed.observation import OtherPreflights
from finetune_operator.settings import PreflightSettings, Settings

from tests.operator.objects import (
    ADAPTER,
    NOW,
    SETTINGS,
    actions_of,
    attempt,
    conditions,
    created,
    decide,
    observe,
    raw_attempt,
    raw_check,
    raw_check_pod,
    raw_job,
    reported,
    run_json,
    stamp,
    started,
)

REQUIRED = {"preflight": "Required"}
COMMIT = "c" * 40
ESTIMATE = JobEstimate(memory_bytes=17 * 2**30, micro_batch_size=8, gradient_checkpointing=True, tokens=1_000_000,
                       hours=1.5, cost=Decimal("1.50"))
PASSED = PreflightResult(verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, message="36 rows to learn from",
                         estimate=ESTIMATE, model_revision=COMMIT, data_hash="d" * 64)
TOO_LARGE = PreflightResult(verdict=PreflightVerdict.REFUSED, reason=Outcome.OUT_OF_MEMORY, field="spec",
                            message="spec: needs about 30 GiB: write spec.method.quantization: nf4")
THERE = PreflightResult(
    verdict=PreflightVerdict.ALREADY_PUBLISHED, reason=Outcome.ALREADY_PUBLISHED, message="published already: there",
    published=Result(outcome=Outcome.ALREADY_PUBLISHED, message="done", adapter=ADAPTER))
REMOVED = ["delete Job tune-1-preflight", "delete ConfigMap tune-1-preflight-11111111"]


def job(status=None, **known):
    """A job that is checked first."""
    return raw_job(status, **{"runPolicy": REQUIRED, **known})


def ended(code, said: PreflightResult | str = "", generation=1, **known):
    """The Job and the pod of a check that has ended."""
    words = said.to_bytes().decode() if isinstance(said, PreflightResult) else said
    return (raw_check(generation, ended="Failed" if code else "Complete"),
            raw_check_pod(generation, exit_code=code, said=words, **known))


def test_a_check_runs_before_the_start_and_requests_no_accelerator():
    decided = decide(job())
    assert actions_of(decided) == ["create ConfigMap tune-1-preflight-11111111", "create Job tune-1-preflight"]
    assert reported(decided)[:2] == ("Preflight", "Preflight")
    assert conditions(decided) == {"Validated": "True", "Progressing": "True", "Reconciling": "True"}
    assert decided.status.start_time is None
    made = created(decided, "Job")
    pod = made["spec"]["template"]["spec"]
    trainer = pod["containers"][0]
    assert trainer["args"] == ["preflight", "--config", "/etc/finetune/run"]
    assert trainer["resources"] == {"requests": {"cpu": "500m", "memory": "4Gi", "ephemeral-storage": "0"},
                                    "limits": {"memory": "4Gi", "ephemeral-storage": "100Gi"}}
    assert (pod["nodeSelector"], pod["tolerations"]) == ({}, [])
    assert pod["automountServiceAccountToken"] is False
    assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in trainer["volumeMounts"]}
    assert "limits" not in {one["name"] for one in pod["volumes"]}
    assert (made["spec"]["backoffLimit"], pod["activeDeadlineSeconds"]) == (0, 1800)
    for labels in (made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]):
        assert labels["finetune.dev/preflight"] == "1"
        assert "finetune.dev/attempt" not in labels


def test_a_check_gets_the_run_configuration_of_the_first_attempt_and_the_catalogue():
    content = run_json(decide(job()))
    assert content["accelerator"]["name"] == "nvidia-l4"
    assert content["accelerator"]["memoryBytes"] == 24 * 2**30
    assert {"name": "nvidia-a100-80", "memoryBytes": 80 * 2**30, "hourlyRate": "5.10", "currency": "USD"
            } in content["catalogue"]


def test_the_check_and_every_attempt_use_the_day_on_which_the_job_was_created():
    days = 3 * 86400.0
    for decided in (decide(job()), decide(job(), at=days), decide(raw_job(started())),
                    decide(raw_job(started(attempts=(attempt(reason="Stopped", end=60),))), at=days)):
        assert run_json(decided)["date"] == "2026-01-01"


def test_a_check_has_the_secrets_of_its_job():
    output = {"s3": {"credentialsSecretRef": {"name": "s3"}}}
    pod = created(decide(job(output=output)), "Job")["spec"]["template"]["spec"]
    assert "AWS_ACCESS_KEY_ID" in {one["name"] for one in pod["containers"][0]["env"]}


@pytest.mark.parametrize("policy", ["Skip", "Required"])
def test_skip_starts_at_once(policy):
    assert (decide(job(runPolicy={"preflight": policy})).status.start_time is not None) == (policy == "Skip")


def test_what_the_settings_refuse_is_not_checked():
    refused = job(compute={"accelerator": "tpu"}, generation=2)
    assert actions_of(decide(refused)) == []
    assert actions_of(decide(refused, raw_check(), raw_check_pod(running=True))) == REMOVED


def test_a_suspended_job_is_not_checked():
    suspended = job(runPolicy={**REQUIRED, "suspend": True})
    assert actions_of(decide(suspended)) == []
    assert actions_of(decide(suspended, raw_check(), raw_check_pod(running=True))) == REMOVED


def test_a_running_check_is_reported_once():
    waiting = decide(job()).status
    decided = decide(job(waiting), raw_check(), raw_check_pod(running=True), at=5)
    assert (decided.status, decided.actions) == (waiting, ())


def test_a_job_starts_with_what_its_check_found():
    decided = decide(job(decide(job()).status), *ended(0, PASSED))
    status = decided.status
    assert (status.start_time, status.phase) == (NOW, Phase.STARTING)
    assert status.memory.estimated_bytes == ESTIMATE.memory_bytes
    assert status.memory.accelerator_bytes == 24 * 2**30
    assert status.cost.projected == Decimal("1.50")
    assert (status.preflight.model_revision, status.preflight.hours) == (COMMIT, 1.5)


def test_a_large_checkpoint_gets_the_time_to_be_uploaded():
    large = PASSED.model_copy(update={"estimate": ESTIMATE.model_copy(update={"checkpoint_bytes": 42_000_000_001})})
    first = decide(job(decide(job()).status), *ended(0, large)).status
    assert first.preflight.checkpoint_bytes == 42_000_000_001
    pod = created(decide(job(first), *ended(0, large)), "Job")["spec"]["template"]["spec"]
    # 50 MB a second, rounded up.
    assert pod["terminationGracePeriodSeconds"] == 841


def test_the_model_that_was_checked_is_the_one_that_is_trained_and_the_check_goes():
    first = decide(job(decide(job()).status), *ended(0, PASSED)).status
    decided = decide(job(first), *ended(0, PASSED))
    assert actions_of(decided)[:2] == REMOVED
    assert actions_of(decided)[-1] == "create Job tune-1"
    assert created(decided, "Job")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120
    content = run_json(decided)
    assert content["spec"]["model"]["revision"] == COMMIT
    assert content["specHash"] == first.spec_hash, "the pin is no other job"


def test_a_published_result_ends_the_job_without_any_attempt():
    decided = decide(job(decide(job()).status), *ended(0, THERE))
    assert reported(decided) == ("Succeeded", "AlreadyPublished", "published already: there")
    assert decided.status.adapter == ADAPTER
    assert decided.status.completion_time == NOW
    assert decided.status.attempts == ()


@pytest.mark.parametrize(("outcome", "end"), [
    (Outcome.QUALITY_GATE, ("Failed", "QualityGate")), (Outcome.STOPPED_EARLY, ("Succeeded", "StoppedEarly")),
    (Outcome.SUCCEEDED, ("Succeeded", "AlreadyPublished")), (Outcome.DIVERGED, ("Succeeded", "AlreadyPublished")),
])
def test_a_job_that_adopts_a_result_ends_as_the_run_that_published_it(outcome, end):
    said = THERE.model_copy(update={"reason": outcome, "message": "it was so; runPolicy.rerun: Always trains again"})
    decided = decide(job(decide(job()).status), *ended(0, said))
    assert reported(decided) == (*end, said.message)
    assert decided.status.adapter == ADAPTER
    assert decided.status.completion_time == NOW
    assert actions_of(decided) == REMOVED


@pytest.mark.parametrize("code", [64, 65, 66, 71, 73])
def test_a_refusal_is_reported_with_the_checks_message_and_waits_for_an_edit(code):
    decided = decide(job(decide(job()).status), *ended(code, TOO_LARGE))
    assert reported(decided) == ("Pending", "OutOfMemory", TOO_LARGE.message)
    assert conditions(decided) == {"Validated": "False", "Progressing": "False", "Reconciling": "False",
                                   "Stalled": "True"}
    assert (decided.status.start_time, decided.status.completion_time) == (None, None)
    assert actions_of(decided) == REMOVED
    later = decide(job(decided.status), at=3600)
    assert (later.status, later.actions, later.requeue_after) == (decided.status, (), None)


def test_a_refusal_without_a_message_has_that_of_its_exit_code():
    decided = decide(job(decide(job()).status), *ended(65))
    assert reported(decided)[1:] == ("BadData", "the trainer refused the data and could not say why")


def test_an_edited_job_is_checked_again():
    refused = decide(job(decide(job()).status), *ended(71, TOO_LARGE)).status
    decided = decide(job(refused, generation=2))
    assert actions_of(decided) == ["create ConfigMap tune-2-preflight-11111111", "create Job tune-2-preflight"]
    assert "Stalled" not in conditions(decided)
    assert decided.status.preflight == PreflightStatus(generation=2)


def test_an_edit_while_a_check_runs_replaces_it():
    decided = decide(job(decide(job()).status, generation=2), raw_check(), raw_check_pod(running=True))
    created_next = ["create ConfigMap tune-2-preflight-11111111", "create Job tune-2-preflight"]
    assert actions_of(decided) == [*REMOVED, *created_next]


@pytest.mark.parametrize(("code", "failures"), [(None, 1), (1, 1), (137, 1), (75, 0)],
                         ids=["node lost", "unforeseen", "killed", "evicted"])
def test_a_check_that_a_disruption_ended_runs_again(code, failures):
    pod = raw_check_pod(exit_code=code, at=0)
    decided = decide(job(decide(job()).status), raw_check(ended="Failed", at=0), pod)
    assert reported(decided)[:2] == ("Preflight", "Retrying")
    assert decided.status.preflight.failures == failures
    assert actions_of(decided) == REMOVED
    stale = decide(job(decided.status), raw_check(ended="Failed"), pod, at=1)
    assert stale.status.preflight.failures == failures, "one end counts once"
    waiting = decide(job(decided.status), at=5)
    assert (actions_of(waiting), waiting.requeue_after.total_seconds()) == ([], 5)
    name = f"tune-1{'r1' if failures else ''}-preflight"
    assert actions_of(decide(job(decided.status), at=10)) == [f"create ConfigMap {name}-11111111", f"create Job {name}"]


def test_a_check_on_a_node_that_does_not_answer_runs_again_on_another():
    silent = raw_check_pod(running=True, leaving=True, at=60)
    status = decide(job()).status
    assert actions_of(decide(job(status), raw_check(), silent, at=359)) == []
    lost = decide(job(status), raw_check(), silent, at=360)
    assert lost.status.preflight.failures == 1
    assert actions_of(lost) == REMOVED
    again = decide(job(lost.status), raw_check(deleting=True), silent, at=370)
    assert actions_of(again) == ["create ConfigMap tune-1r1-preflight-11111111", "create Job tune-1r1-preflight"]
    new = raw_check()
    new["metadata"] |= {"name": "tune-1r1-preflight", "uid": "new", "creationTimestamp": stamp(370)}
    waits = decide(job(again.status), raw_check(deleting=True), silent, new, at=371)
    assert (actions_of(waits), waits.status.preflight.failures) == ([], 1)


def test_a_check_that_takes_long_requests_no_requeue():
    running = raw_check_pod(running=True)
    assert decide(job(decide(job()).status), raw_check(), running, at=660).requeue_after is None


def test_a_check_that_an_earlier_release_created_continues():
    status = decide(job()).status
    running, pod = raw_check(), raw_check_pod(running=True)
    running["metadata"]["name"] = "tune-preflight-1"
    assert actions_of(decide(job(status), running, pod, at=5)) == []
    done, pod = ended(0, PASSED)
    done["metadata"]["name"] = "tune-preflight-1"
    assert decide(job(status), done, pod).status.start_time == NOW


def test_no_two_children_of_any_jobs_share_a_name():
    jobs = ["x", "x-preflight", "x-1", "x-1-preflight", "x-1r1", "x-1r1-preflight", "x-1-1"]
    attempts = [names.attempt_name(one, number) for one in jobs for number in (1, 2, 11)]
    checks = [names.preflight_name(one, generation, failures)
              for one in jobs for generation in (1, 2, 11) for failures in (0, 1, 2, 11)]
    assert len({*attempts, *checks}) == len(attempts) + len(checks)
    assert len(names.preflight_name("x" * 40, 99999, 10) + "-0") <= 63, "a pod's hostname"


def test_a_check_is_not_retried_forever():
    status = decide(job()).status.model_copy(update={"preflight": PreflightStatus(generation=1, failures=3)})
    fourth, pod = ended(1)
    fourth["metadata"]["name"] = names.preflight_name("tune", 1, 3)
    decided = decide(job(status), fourth, pod)
    assert reported(decided)[:2] == ("Pending", "PreflightFailed")
    assert "tried 4 times" in reported(decided)[2]
    assert conditions(decided)["Stalled"] == "True"


@pytest.mark.parametrize(("known", "words"), [
    ({"exit_code": 137, "oom": True}, "raise preflight.memory in the operator's settings"),
])
def test_too_little_memory_for_the_check_names_the_setting(known, words):
    decided = decide(job(decide(job()).status), raw_check(ended="Failed"), raw_check_pod(**known))
    assert words in reported(decided)[2]


def test_a_check_that_takes_too_long_names_the_setting():
    decided = decide(job(decide(job()).status), raw_check(ended="Failed"), raw_check_pod(exit_code=75, overdue=True))
    assert reported(decided)[1] == "DeadlineExceeded"
    assert "raise preflight.timeout" in reported(decided)[2]


def test_a_check_without_a_pod_is_reported():
    status = decide(job()).status
    soon = decide(job(status), raw_check(), at=10)
    assert (reported(soon)[1], soon.requeue_after.total_seconds()) == ("Preflight", 30)
    late = decide(job(status), raw_check(), at=31)
    assert reported(late)[:2] == ("Preflight", "CannotStart")
    assert "ResourceQuota" in reported(late)[2]


def test_a_check_that_no_node_can_take_waits_and_is_reported():
    decided = decide(job(decide(job()).status), raw_check(), raw_check_pod(unschedulable="0/3 nodes"))
    assert reported(decided)[:2] == ("Preflight", "Unschedulable")
    assert "500m CPU and 4Gi of memory; the scheduler says: 0/3 nodes" in reported(decided)[2]


def test_a_check_whose_pod_never_starts_fails_the_job_after_the_start_timeout():
    pod = raw_check_pod(waiting=("ImagePullBackOff", "no such tag"))
    before = decide(job(decide(job()).status), raw_check(), pod, at=599)
    assert reported(before)[:2] == ("Preflight", "CannotStart")
    assert before.requeue_after.total_seconds() == 1
    decided = decide(job(before.status), raw_check(), pod, at=600)
    assert reported(decided)[:2] == ("Failed", "ImagePullFailed")
    assert decided.status.completion_time is not None
    assert actions_of(decided) == REMOVED


def test_a_check_that_somebody_deleted_runs_again():
    status = decide(job()).status
    assert actions_of(decide(job(status), raw_check(deleting=True))) == []
    assert actions_of(decide(job(status)))[-1] == "create Job tune-1-preflight"


def test_an_attempt_is_no_check_and_a_check_is_no_attempt():
    decided = decide(job(decide(job()).status), raw_attempt(1, uid="2" * 36), raw_check(), raw_check_pod(running=True))
    assert actions_of(decided) == []
    assert SETTINGS.preflight.timeout.total_seconds() == 1800


# Where it goes

def place(*, bound=(), settings=SETTINGS, **sections):
    """Node selector and tolerations of a check, if these claims have a volume."""
    observation = replace(observe(job(**sections)), bound_claims=frozenset(bound))
    pod = created(plan(observation, settings, NOW), "Job")["spec"]["template"]["spec"]
    return pod["nodeSelector"], {one["key"] for one in pod["tolerations"]}, pod["containers"][0]


@pytest.mark.parametrize(("section", "uri"), [("output", "pvc://results/out"), ("dataset", "pvc://results/rows.jsonl"),
                                              ("model", "pvc://results/base")])
def test_a_check_that_may_be_the_first_to_use_a_claim_goes_where_the_trainer_will(section, uri):
    field = "uri" if section == "output" else "source"
    sections = {section: {field: uri}, "compute": {"spot": True}}
    selector, taints, container = place(**sections)
    assert selector == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert taints == {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}
    assert "nvidia.com/gpu" not in container["resources"]["limits"], "but asks for no accelerator"
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["NVIDIA_VISIBLE_DEVICES"]) == ("", "void"), "and sees none"
    assert place(bound=["results"], **sections)[:2] == ({}, set()), "the volume decides where it can be mounted"


def test_the_models_cache_is_such_a_claim_too():
    settings = Settings(trainer_image="registry/trainer:1", model_cache_claim="models")
    assert place(settings=settings)[0] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert place(settings=settings, bound=["models"])[0] == {}
    assert place(settings=settings, output={"uri": "pvc://results/out"}, bound=["models"])[0] != {}


def test_a_claim_is_looked_up_only_if_a_check_is_created():
    observation = observe(job(output={"uri": "pvc://results/out"}))
    made = plan(observation, SETTINGS, NOW)
    assert claims_to_look_up(observation, made, SETTINGS) == {"results"}
    assert claims_to_look_up(replace(observation, bound_claims=frozenset({"results"})), made, SETTINGS) == set()
    under_way = observe(job(made.status, output={"uri": "pvc://results/out"}), raw_check(), raw_check_pod(running=True))
    assert claims_to_look_up(under_way, plan(under_way, SETTINGS, NOW), SETTINGS) == set()
    assert claims_to_look_up(observe(job()), decide(job()), SETTINGS) == set()


# Queues and turns

def test_a_check_that_waits_for_a_queue_is_reported():
    status = decide(job()).status
    held = decide(job(status), raw_check(suspended=True))
    assert reported(held)[:2] == ("Preflight", "WaitingForQuota")
    assert "preflight.queueName" in reported(held)[2]
    assert (actions_of(held), held.requeue_after) == ([], None)
    settings = Settings(trainer_image="registry/trainer:1", preflight=PreflightSettings(queue_name="checks"))
    assert "the queue checks has not admitted it" in reported(
        decide(job(status), raw_check(suspended=True), settings=settings))[2]


def test_an_attempt_that_is_suspended_without_a_queue_is_reported():
    status = decide(raw_job()).status
    assert "manageJobsWithoutQueueName" in reported(decide(raw_job(status), raw_attempt(suspended=True)))[2]


def test_checks_have_a_queue_of_their_own():
    settings = Settings(trainer_image="registry/trainer:1", preflight=PreflightSettings(queue_name="checks"))
    made = created(decide(job(compute={"queueName": "gpus"}), settings=settings), "Job")
    assert (made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], made["spec"]["suspend"]) == ("checks", True)
    made = created(decide(job(compute={"queueName": "gpus"})), "Job")
    assert "suspend" not in made["spec"] and "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]


@pytest.mark.parametrize(("checks", "field"), [
    (OtherPreflights(running=20), "preflight.parallelism "),
    (OtherPreflights(in_namespace=10), "preflight.parallelismPerNamespace"),
    (OtherPreflights(running=19, in_namespace=9), None),
])
def test_checks_are_bounded_and_a_job_that_waits_for_its_turn_is_reported(checks, field):
    observation = replace(observe(job()), other_preflights=checks)
    decided = plan(observation, SETTINGS, NOW)
    if field is None:
        assert created(decided, "Job")["metadata"]["labels"]["finetune.dev/preflight"] == "1"
        return
    assert reported(decided)[:2] == ("Preflight", "WaitingForCheck")
    assert field in reported(decided)[2]
    assert (actions_of(decided), decided.requeue_after) == ([], None)
    again = plan(replace(observe(job(decided.status)), other_preflights=checks), SETTINGS, NOW)
    assert (again.status, again.actions, again.requeue_after) == (decided.status, (), None), "no loop"


def test_a_check_that_runs_needs_no_turn():
    observation = observe(job(decide(job()).status), *ended(0, PASSED))
    assert plan(replace(observation, other_preflights=OtherPreflights(99, 99)), SETTINGS, NOW).status.start_time == NOW


def test_a_check_prefers_another_node_than_the_one_that_refused_it():
    wish = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}
    wishes = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    settings = Settings(preflight=PreflightSettings(pod_template={"spec": {"affinity": wishes}}))
    refused = raw_check(ended="Failed"), raw_check_pod(scheduled=None, ended_by=("OutOfcpu", "no CPU is left"))
    told = decide(job(), *refused, at=60)
    assert (told.status.preflight.node, told.status.preflight.failures) == ("node-a", 0)
    for given, kept in ((SETTINGS, []), (settings, [wish])):
        again = decide(job(told.status), at=100, settings=given)
        *before, away = created(again, "Job")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
            "preferredDuringSchedulingIgnoredDuringExecution"]
        assert before == kept
        assert away["preference"]["matchFields"] == [
            {"key": "metadata.name", "operator": "NotIn", "values": ["node-a"]}]
    evicted = decide(job(again.status), raw_check(ended="Failed"),
                     raw_check_pod(disruption="drained"), at=200)
    assert evicted.status.preflight.node is None
