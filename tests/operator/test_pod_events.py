"""Whom the apiserver refuses, and what keeps a pod from being made or started: told in the words of who knows."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.reconcile.pod_events import EventReader, message_of, with_event_messages
from finetune_operator.decide.attempts.waiting import POD_DELAY
from finetune_operator.decide.plan import plan
from finetune_operator.errors import ApiError
from finetune_operator.telemetry.metrics import JobCollector

from tests.cluster.waiting import wait_for
from tests.operator.objects import (
    NOW,
    SETTINGS,
    UID,
    decide,
    observe,
    raw_attempt,
    raw_check,
    raw_job,
    raw_pod,
    reported,
    stamp,
    started,
)

QUOTA = "exceeded quota: team, requested: limits.memory=24Gi, used: limits.memory=0, limited: limits.memory=8Gi"
LIMIT_RANGE = 'spec.containers[0].resources.requests: Invalid value: "4": must be less than or equal to cpu limit of 1'


@pytest.mark.parametrize(("status", "message", "by"), [
    (403, 'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs" in API group '
          '"batch" in the namespace "team"', "authorization"),
    (403, 'forbidden: User "x" cannot get path "/metrics"', "authorization"),
    (401, "Unauthorized", "authorization"),
    (403, f'jobs.batch "tune-1" is forbidden: {QUOTA}', "admission"),
    (403, 'jobs.batch "tune-1" is forbidden: ValidatingAdmissionPolicy "x" denied request: no', "admission"),
    (403, 'jobs.batch "tune-1" is forbidden: unable to create new content in namespace a because it is being '
          'terminated', "admission"),
    (409, "exists", ""), (500, "", ""),
])
def test_a_quota_or_policy_is_told_from_a_role_that_lacks_something(status, message, by):
    assert ApiError(status, "Forbidden", message).refused_by == by


def event(message, at=10.0, **known):
    return {"metadata": {"creationTimestamp": stamp(0)}, "type": "Warning", "message": message,
            "lastTimestamp": stamp(at), **known}


@pytest.mark.parametrize(("message", "told"), [
    (f'Error creating: pods "tune-1-0-abcde" is forbidden: {QUOTA}', QUOTA),
    (f'Error creating: Pod "tune-1-0-abcde" is invalid: {LIMIT_RANGE}', LIMIT_RANGE),
    (f'(combined from similar events): Error creating: pods "tune-1-0-fghij" is forbidden: {QUOTA}', QUOTA),
    ("Error creating: Internal error occurred: a webhook failed", "Internal error occurred: a webhook failed"),
    ("", ""),
])
def test_the_words_are_those_of_the_apiserver_without_the_name_of_a_pod_that_changes(message, told):
    assert message_of(event(message)) == told


class Events:
    """What an apiserver answers, and what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def events(self, namespace, selector):
        self.asked.append(selector)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def look(observation, at, answer):
    """What is observed after the events were asked for, and by which selectors."""
    events = Events(answer)
    return asyncio.run(with_event_messages(observation, EventReader(events), NOW + timedelta(seconds=at))), events.asked


def test_a_job_without_a_pod_is_told_in_the_words_of_its_controller():
    observation, asked = look(observe(raw_job(started()), raw_attempt()), 31, [
        event("older", at=1), event(f"Error creating: {LIMIT_RANGE}"), event("oldest", at=0.0)])
    assert asked == [f"involvedObject.kind=Job,involvedObject.uid={UID}-job-1,reason=FailedCreate"]
    told = reported(plan(observation, SETTINGS, NOW + timedelta(seconds=31)))
    assert told[:2] == ("Starting", "CannotStart")
    assert LIMIT_RANGE in told[2] and "kubectl describe job" not in told[2]


def test_a_check_without_a_pod_likewise():
    job = raw_job(decide(raw_job(runPolicy={"preflight": "Required"})).status, runPolicy={"preflight": "Required"})
    observation, _ = look(observe(job, raw_check()), 31, [event(f"Error creating: {QUOTA}")])
    told = reported(plan(observation, SETTINGS, NOW + timedelta(seconds=31)))
    assert told[:2] == ("Preflight", "CannotStart")
    assert QUOTA in told[2]


def test_an_attempt_that_gets_only_some_of_its_pods_says_so_while_these_wait_for_the_others():
    job, attempt = raw_job(started(), compute={"nodes": 2}), raw_attempt()
    attempt["spec"]["parallelism"] = 2
    raws = [job, attempt, raw_pod(running=True)]
    assert plan(observe(*raws), SETTINGS, NOW + timedelta(seconds=10)).requeue_after == POD_DELAY
    observation, asked = look(observe(*raws), 31, [event(f"Error creating: {QUOTA}")])
    assert asked == [f"involvedObject.kind=Job,involvedObject.uid={UID}-job-1,reason=FailedCreate"]
    decided = plan(observation, SETTINGS, NOW + timedelta(hours=1))
    assert reported(decided)[:2] == ("Starting", "CannotStart")
    assert "1 of the 2 pods of the Job tune-1 exist" in reported(decided)[2] and QUOTA in reported(decided)[2]
    assert decided.requeue_after is None, "no loop"
    both = observe(*raws, raw_pod(index=1, running=True))
    assert look(both, 31, []) == (both, [])
    assert reported(plan(both, SETTINGS, NOW + timedelta(seconds=31)))[1] == "Running"


def test_the_same_is_asked_once_a_minute_at_most():
    events = Events([event("words")])

    async def look_often():
        reader = EventReader(events)
        return [await reader.newest("team", selector, NOW + timedelta(seconds=at))
                for selector, at in (("a", 0), ("a", 59), ("b", 59), ("a", 60), ("b", 61))]

    assert [one["message"] for one in asyncio.run(look_often())] == ["words"] * 5
    assert events.asked == ["a", "b", "a"]


MOUNT = {"reason": "FailedMount", "message": 'MountVolume.SetUp failed for volume "ca": configmap "ca" not found'}


@pytest.mark.parametrize("waiting", [None, ("ContainerCreating", "")])
def test_a_pod_that_does_not_start_is_told_in_the_words_of_its_node_long_before_it_fails(waiting):
    raws = [raw_job(started()), raw_attempt(), raw_pod(waiting=waiting)]
    young = plan(observe(*raws), SETTINGS, NOW + timedelta(seconds=10))
    assert young.requeue_after == timedelta(seconds=20), "it is looked at again then"
    observation, asked = look(observe(*raws), 30, [event(**MOUNT)])
    assert asked == ["involvedObject.kind=Pod,involvedObject.name=tune-1-0-x"]
    told = reported(plan(observation, SETTINGS, NOW + timedelta(seconds=30)))
    assert told == ("Starting", "CannotStart", f"the pod cannot start yet: FailedMount: {MOUNT['message']}")
    pulls = [event(**MOUNT), event("Pulling image", at=20.0, type="Normal", reason="Pulling")]
    assert look(observe(*raws), 30, pulls)[0] == observe(*raws), "that is over"
    observation, _ = look(observe(*raws), 600, [event(**MOUNT)])
    failed = plan(observation, SETTINGS, NOW + timedelta(seconds=600))
    assert MOUNT["message"] in reported(failed)[2]


@pytest.mark.parametrize(("raws", "at"), [
    ([raw_attempt(), raw_pod()], 29), ([raw_attempt(), raw_pod(waiting=("ImagePullBackOff", "no such tag"))], 60),
    ([raw_attempt(), raw_pod(unschedulable="0/3 nodes")], 60),
    ([raw_attempt(ended="Failed"), raw_pod(exit_code=1)], 90),
    ([raw_attempt()], 29), ([raw_attempt(), raw_pod(running=True)], 60), ([raw_attempt(suspended=True)], 60),
    ([raw_attempt(ended="Failed")], 90), ([raw_attempt(deleting=True)], 90), ([], 60),
], ids=["just scheduled", "says why", "no node", "has run", "young", "with a pod", "suspended", "ended",
        "being deleted", "no Job"])
def test_events_are_asked_for_only_where_a_pod_is_missing(raws, at):
    observation = observe(raw_job(started()), *raws)
    assert look(observation, at, []) == (observation, [])


def test_a_refused_question_leaves_the_general_advice():
    observation, _ = look(observe(raw_job(started()), raw_attempt()), 31, ApiError(403, "Forbidden", ""))
    assert "kubectl describe job tune-1" in reported(plan(observation, SETTINGS, NOW + timedelta(seconds=31)))[2]


def test_a_real_controllers_words_about_a_limit_range_are_found(control_plane, api, namespace, monkeypatch):
    limits = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}
    api("POST", f"/api/v1/namespaces/{namespace}/limitranges", {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": [limits]}})
    container = {"name": "trainer", "image": "x", "resources": {"requests": {"cpu": "4"}}}
    pod = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "tune-1"}, "spec": {"template": pod}}
    uid = api.create("Job", namespace, job)["metadata"]["uid"]
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))

    async def ask(of):
        client = Client.connect()
        try:
            selector = f"involvedObject.kind=Job,involvedObject.uid={of},reason=FailedCreate"
            return [message_of(one) for one in await client.events(namespace, selector)]
        finally:
            await client.close()

    assert set(wait_for(lambda: asyncio.run(ask(uid)), "the controller's event")) == {LIMIT_RANGE}
    assert asyncio.run(ask("another")) == []


def test_a_failure_is_counted_for_its_own_object_with_its_time():
    raw = raw_job(started(completion_time=NOW))
    samples = {family.name: family.samples for family in JobCollector(lambda: [raw]).collect()}
    (done,) = samples["finetune_job_completion_timestamp_seconds"]
    assert (done.value, done.labels) == (NOW.timestamp(), {
        "namespace": "team", "job": "tune", "uid": raw["metadata"]["uid"]})
    assert samples["finetune_job_info"][0].labels["uid"] == raw["metadata"]["uid"]


def test_a_job_is_told_with_the_experiment_that_owns_it_and_with_no_other_owner():
    raws = [raw_job(), raw_job(), raw_job()]
    for raw, kind in zip(raws, ("FineTuneExperiment", "CronJob"), strict=False):
        raw["metadata"]["ownerReferences"] = [{"kind": kind, "name": "compare", "uid": "1", "controller": True}]
    families = {family.name: family.samples for family in JobCollector(lambda: raws).collect()}
    (owned,) = families["finetune_job_experiment_info"]
    assert owned.labels == {"namespace": "team", "job": "tune", "experiment": "compare"}


@pytest.mark.parametrize("nonsense", ["soon", 7, "9999999999-01-01T00:00:00Z", {}])
def test_a_time_that_is_none_is_that_jobs_alone(nonsense):
    raws = [raw_job({"completionTime": nonsense}), raw_job(started(completion_time=NOW))]
    families = {family.name: family.samples for family in JobCollector(lambda: raws).collect()}
    assert len(families["finetune_job_completion_timestamp_seconds"]) == 1
    assert len(families["finetune_job_info"]) == 2
