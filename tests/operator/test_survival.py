"""What is stored, or refused, where nobody expects it: one job's affair, told there, and nobody else's."""

from __future__ import annotations

import asyncio
import copy
import json
from contextlib import contextmanager
from datetime import timedelta

import aiohttp
import kopf
import pytest
import yaml
from aiohttp import web
from finetune_operator.cluster.apiserver import client
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.actions import ActionRunner
from finetune_operator.cluster.reconcile.reconciler import Reconciler
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.status_document import dump_status, repaired
from finetune_operator.decide.actions import Apply, Create, Delete
from finetune_operator.decide.stages.undecidable import plan_after_refusal
from finetune_operator.errors import ApiError, ChildRefused

from tests.api.jobs import document
from tests.cluster.waiting import wait_for
from tests.operator.conftest import CRD
from tests.operator.objects import (
    KEY,
    NOW,
    SETTINGS,
    attempt,
    decide,
    observe,
    raw_attempt,
    raw_job,
    raw_pod,
    reported,
    started,
)
from tests.operator.operators import Operator
from tests.operator.work import DONE, Work

REFUSALS = ("finetune_operator_status_refusals_total", frozenset())


@contextmanager
def other_crd(control_plane, change, works):
    """The CustomResourceDefinition changed, as another release has it, once it `works`."""
    crd = yaml.safe_load(CRD.read_text())
    change(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
    try:
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(crd))
        wait_for(works, "the other CustomResourceDefinition to be in force")
        yield
    finally:
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", CRD)


def as_it_was(properties):
    dataset = properties["spec"]["properties"]["dataset"]
    del dataset["properties"]["answerFormat"]["properties"]["jsonSchema"]
    dataset["x-kubernetes-validations"] = [
        rule for rule in dataset["x-kubernetes-validations"] if "answerFormat" not in rule["rule"]]
    properties["spec"]["x-kubernetes-validations"] = [
        rule for rule in properties["spec"]["x-kubernetes-validations"] if "jsonSchema" not in rule["rule"]]


def store(api, namespace, name, schema):
    body = document(dataset={"answerFormat": {"type": "json", "schema": "HERE"}}, runPolicy={"preflight": "Skip"})
    body["metadata"]["name"] = name
    text = json.dumps(body).replace('"HERE"', schema)
    return api._http.request("POST", api.path("FineTuneJob", namespace), content=text,
                             headers={"Content-Type": "application/json"}).status_code == 201


def test_a_stored_object_of_any_depth_is_its_own_jobs_invalid_spec(control_plane, api, work, namespace):
    deep = '{"not":' * 990 + "{}" + "}" * 990
    with other_crd(control_plane, as_it_was, lambda: store(api, namespace, "first", deep)):
        store(api, namespace, "shallow", '{"type": "object"}')
        store(api, namespace, "waits", '{"type": "object"}')
        Work(api, namespace, "waits").change(runPolicy={"suspend": True})
        for identity in ("lists it", "lists it again"):
            operator = Operator(control_plane, namespace, identity=identity)
            try:
                Work(api, namespace, "first").until("Pending", "InvalidSpec")
                Work(api, namespace, "shallow").until("Running")
                store(api, namespace, f"watched-{len(identity)}", deep)
                Work(api, namespace, f"watched-{len(identity)}").until("Pending", "InvalidSpec")
                assert operator.process.popen.poll() is None
            finally:
                operator.stop()
    wait_for(lambda: not store(api, namespace, "another", deep), "the CustomResourceDefinition of this release")
    operator = Operator(control_plane, namespace, identity="upgraded")
    try:
        Work(api, namespace, "shallow").end(0, DONE)
        Work(api, namespace, "shallow").until("Succeeded")
        Work(api, namespace, "waits").change(runPolicy={"suspend": False})
        Work(api, namespace, "waits").until("Running")
        for name in ("first", "waits"):
            api.delete("FineTuneJob", namespace, name, "Foreground")
        wait_for(lambda: not {"first", "waits"} & {
            one["metadata"]["name"] for one in api.list("FineTuneJob", namespace)}, "two jobs to be gone")
    finally:
        operator.stop()


def test_a_status_that_the_apiserver_does_not_take_is_told_and_the_rest_is_written(control_plane, api, work, namespace):
    def without_running(properties):
        properties["status"]["properties"]["phase"]["enum"].remove("Running")

    def is_in_force():
        return api._http.request("PATCH", api.path("FineTuneJob", namespace, "probe") + "/status?dryRun=All", content=
                                 json.dumps({"status": {"phase": "Running"}}), headers={
                                     "Content-Type": "application/merge-patch+json"}).status_code == 422

    Work(api, namespace, "probe").apply(runPolicy={"suspend": True})
    operator = Operator(control_plane, namespace, identity="newer")
    try:
        with other_crd(control_plane, without_running, is_in_force):
            work.apply()
            work.running_pod()

            def told():
                status = work.status()
                assert any("a part of the status could not be written" in one["message"]
                           for one in status["conditions"]), status["conditions"]
                return status
            status = wait_for(told, "the refusal to be told")
            assert status["attempts"][0]["reason"] == "Running"
            assert status["phase"] == "Starting"
            assert operator.metrics()[REFUSALS] >= 1
            assert any(one["reason"] == "StatusRefused" for one in work.events())
        work.until("Running")
        work.end(0, DONE)
        status = work.until("Succeeded")
        assert not any("could not be written" in one["message"] for one in status["conditions"])
    finally:
        operator.stop()


def test_a_webhook_that_does_not_answer_is_told_as_a_quota_is(operator, work, api, namespace):
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    api("POST", hooks, {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace}, "webhooks": [{
            "name": "away.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 1,
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
        }]})
    try:
        work.apply()
        status = work.until("Starting", "CannotStart")
        words = next(one["message"] for one in status["conditions"] if one["type"] == "Progressing")
        assert "500 InternalError" in words
        assert "away.example.com" in words
    finally:
        api("DELETE", f"{hooks}/{namespace}")
    work.until("Running")


class Apiserver:
    """Takes what is asked for, and refuses some of it."""

    def __init__(self, refused):
        self.refused, self.asked = refused, []

    def _ask(self, verb, name):
        self.asked.append(f"{verb} {name}")
        if name in self.refused:
            raise ApiError(500, "InternalError", "failed calling webhook")

    async def create(self, manifest):
        self._ask("create", manifest["metadata"]["name"])
        return manifest

    async def apply(self, manifest):
        self._ask("apply", manifest["metadata"]["name"])
        return manifest

    async def delete(self, api_version, kind, namespace, name):
        self._ask("delete", name)


def _made(name):
    made = raw_attempt()
    made["metadata"] |= {"name": name, "uid": name}
    return made


@pytest.mark.parametrize(("refused", "asked"), [
    (set(), ["delete old", "apply policy", "create map", "create job", "apply limits"]),
    ({"old"}, ["delete old", "apply policy", "create map", "create job", "apply limits"]),
    ({"policy"}, ["delete old", "apply policy", "apply limits"]),
    ({"map"}, ["delete old", "apply policy", "create map", "apply limits"]),
])
def test_what_is_refused_holds_up_only_what_would_be_made_after_it(refused, asked):
    apiserver, cache = Apiserver(refused), Cache()
    cache.record(raw_job())
    actions = (Apply(_made("policy")), Create(_made("map")), Create(_made("job")), Apply(_made("limits")),
               Delete("batch/v1", "Job", "old"))

    async def act():
        return await ActionRunner(cache, apiserver, Runtime(lambda: NOW)).run(cache.view(KEY), actions)  # type: ignore[arg-type]

    assert len(asyncio.run(act())) == len(refused)
    assert apiserver.asked == asked


def test_a_refusal_keeps_what_was_seen_since_when_the_budget_is_used_up_and_how_an_attempt_ended():
    running = started(attempts=(attempt(1),))
    job = raw_job(running, budget={"maxDuration": "1m"})
    for pods in ([raw_attempt(), raw_pod(running=True)], [raw_attempt(ended="Failed"), raw_pod(exit_code=1)]):
        decided = decide(job, *pods, at=100)
        told = plan_after_refusal(observe(job).job, decided, "500 InternalError", NOW)
        assert (told.status.cost, told.status.attempts) == (decided.status.cost, decided.status.attempts)
        assert reported(told)[1] == "CannotStart"
    assert decided.status.attempts[0].end_time is not None


class Statuses:
    """Refuses lists, and takes statuses."""

    events = None

    def __init__(self):
        self.written, self.made = [], []

    async def list_into(self, path, selector, take):
        raise ApiError(500, "InternalError", "etcd does not answer")

    async def replace_status(self, body):
        self.written.append(body["status"])
        return {**raw_job(body["status"]), "metadata": {**raw_job()["metadata"], "resourceVersion": "2"}}

    async def create(self, manifest):
        self.made.append(manifest)
        return manifest


class NoStatuses(Statuses):
    """Takes no status at all."""

    async def replace_status(self, body):
        raise ApiError(422, "Invalid", "spec is invalid", ("spec",))


def test_a_status_of_which_nothing_is_taken_is_told_by_an_event():
    apiserver, cache = NoStatuses(), Cache()
    cache.record(raw_job())

    async def work():
        with pytest.raises(ApiError):
            await Reconciler(cache, WorkQueue(), apiserver, SETTINGS, Runtime(lambda: NOW)).reconcile(KEY)  # type: ignore[arg-type]

    asyncio.run(work())
    assert [(one["kind"], one["reason"]) for one in apiserver.made] == [("Event", "StatusRefused")]
    assert "spec is invalid" in apiserver.made[0]["message"]


def test_what_can_not_be_read_for_a_job_is_told_in_its_conditions():
    apiserver, cache = Statuses(), Cache()
    cache.record(raw_job(started(attempts=(attempt(1, "Stopped", end=1),))))

    async def work():
        with pytest.raises(ApiError):
            runtime = Runtime(lambda: NOW + timedelta(hours=1))
            await Reconciler(cache, WorkQueue(), apiserver, SETTINGS, runtime).reconcile(KEY)  # type: ignore[arg-type]

    asyncio.run(work())
    words = next(one["message"] for one in apiserver.written[0]["conditions"] if one["type"] == "Progressing")
    assert "500 InternalError: etcd does not answer" in words


def test_an_apiserver_that_waits_for_a_webhook_for_too_long_is_a_refusal(monkeypatch):
    monkeypatch.setattr(client, "_TIMEOUT", aiohttp.ClientTimeout(total=0.05))

    async def ask():
        waiting = asyncio.Event()

        async def hang(_):
            await waiting.wait()
            return web.Response()

        app = web.Application()
        app.router.add_post("/{path:.*}", hang)
        runner = web.AppRunner(app)
        await runner.setup()
        await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
        address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        asking = client.Client(kopf.ConnectionInfo(server=address))
        try:
            await asking.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "team"}})
        finally:
            waiting.set()
            await asking.close()
            await runner.cleanup()

    with pytest.raises(ApiError, match="504 Timeout: POST /api/v1/namespaces/team/configmaps was not answered"):
        asyncio.run(ask())


@pytest.mark.parametrize(("status", "told"), [(400, True), (403, True), (409, False), (422, True), (429, True),
                                              (500, True), (504, True)])
def test_every_refusal_is_told_but_that_of_what_is_out_of_date(status, told):
    class Refusing(Statuses):
        async def create(self, manifest):
            if manifest["kind"] == "Event":
                return manifest
            raise ApiError(status, "Reason", "no")

    apiserver, cache = Refusing(), Cache()
    cache.record(raw_job(started()))

    async def work():
        with pytest.raises((ApiError, ChildRefused)):
            await Reconciler(cache, WorkQueue(), apiserver, SETTINGS, Runtime(lambda: NOW)).reconcile(KEY)  # type: ignore[arg-type]

    asyncio.run(work())
    assert [f"{status} Reason: no" in str(one["conditions"]) for one in apiserver.written] == [True] * told


def test_a_start_that_is_refused_in_part_is_not_recorded_at_all():
    wanted = dump_status(decide(raw_job()).status)
    written = repaired(wanted, {}, ["status.cost.hourlyRate"], "422 Invalid: status.cost.hourlyRate")
    assert "startTime" not in written
    assert "422 Invalid" in next(one["message"] for one in written["conditions"] if one["type"] == "Progressing")


def test_what_is_refused_of_a_status_stays_as_it_is_stored_and_the_words_are_told_once():
    stored = dump_status(started())
    wanted = copy.deepcopy(stored) | {"phase": "Failed", "completionTime": "2026-01-01T13:00:00Z"}
    wanted["cost"] = {**stored["cost"], "spent": "-1"}
    written = repaired(wanted, stored, ["status.cost.spent", "spec.x"], "refused")
    assert written["cost"] == stored["cost"]
    assert (written["phase"], written["completionTime"]) == ("Failed", "2026-01-01T13:00:00Z")
    assert repaired(written, stored, ["status.cost.spent"], "refused") == written


def test_a_node_whose_clock_is_behind_costs_nothing_and_takes_no_time():
    ended = started(attempts=(attempt(1, start=0),))
    decided = decide(raw_job(ended, budget={"maxCost": "1"}), raw_attempt(ended="Failed"),
                     raw_pod(exit_code=1, at=-7200), at=60)
    assert decided.status.cost.spent == 0
    assert dump_status(decided.status)["cost"]["spent"] == "0.0000"
