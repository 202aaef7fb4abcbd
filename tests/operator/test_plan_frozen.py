"""Attempts of a job get what the first one got, whatever release of the operator makes them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from finetune_api.messages import Outcome, RunConfig
from finetune_api.rules import merge_patch
from finetune_api.status import Phase
from finetune_api.values.quantities import Quantity
from finetune_operator import names
from finetune_operator.decide.plan import plan
from finetune_operator.manifests.run_config import earlier_run
from finetune_operator.observed.job import view_job
from finetune_operator.settings import DEFAULT_CATALOGUE, Allowed, Settings

from tests.api import recorded
from tests.operator.objects import (
    ADAPTER,
    NOW,
    SETTINGS,
    UID,
    acts,
    attempt,
    created,
    decide,
    observe,
    raw_attempt,
    raw_job,
    raw_pod,
    result,
    run_json,
    started,
    telling,
)


def job_of(content: dict[str, Any], *attempts: Any) -> dict[str, Any]:
    """A job whose first attempt got this, as it is stored; a queue took its quota back, or memory was short."""
    raw = raw_job(started(attempts=attempts, spec_hash=content["specHash"]))
    spec = {**content["spec"], "compute": {**content["spec"]["compute"], "nodes": 1}}
    return {**raw, "spec": spec}


def run_map(number: int, content: dict[str, Any] | str, uid: str = UID) -> dict[str, Any]:
    """The ConfigMap of an attempt, as the apiserver lists it."""
    text = content if isinstance(content, str) else json.dumps(content)
    return {"kind": "ConfigMap", "data": {"run.json": text}, "metadata": {
        "name": names.run_name("tune", UID, number), "labels": names.labels("tune", UID, number),
        "ownerReferences": [{"uid": uid}]}}


@pytest.mark.parametrize("path", recorded.ATTEMPTS, ids=recorded.run_name)
def test_an_attempt_gets_what_the_first_one_got_from_another_release(path):
    first = recorded.read(path)
    decided = decide(job_of(first, attempt(1, "Preempted", end=60)), earlier_run=first, at=70)
    second = run_json(decided)
    jsonschema.validate(second, recorded.schema_of(path))  # As that release's trainer reads it.
    assert second == {**first, "attempt": 2}


@pytest.mark.parametrize("path", recorded.ATTEMPTS, ids=recorded.run_name)
def test_the_smallest_plan_is_all_that_changes_after_memory_was_short(path):
    first = recorded.read(path)
    decided = decide(job_of(first, attempt(1, "OutOfMemory", end=60)), earlier_run=first, at=70)
    second = run_json(decided)
    jsonschema.validate(second, recorded.schema_of(path))
    checkpointing = "disabled" if path.stem == "additive" else "enabled"  # Prefix tuning can't have it.
    assert second["spec"]["training"] == {**first["spec"]["training"], "microBatchSize": 1,
                                          "gradientCheckpointing": checkpointing}
    second["spec"]["training"] = first["spec"]["training"]
    assert second == {**first, "attempt": 2}


def test_fields_of_a_later_release_go_along_to_the_trainer_that_knows_them():
    first = {**run_json(decide(raw_job(started()))), "fieldOfTheFuture": {"a": 1}}
    first["spec"]["training"]["fieldOfTheFuture"] = 2
    second = run_json(decide(raw_job(started(attempts=(attempt(1, "Stopped", end=60),))), earlier_run=first, at=70))
    assert second == {**first, "attempt": 2}


def test_what_a_pod_has_now_is_told_to_its_trainer():
    """Its image, by digest once a node has pulled it, and its memory, which an administrator may have raised."""
    first = run_json(decide(raw_job(started())))
    larger = DEFAULT_CATALOGUE["nvidia-l4"].model_copy(update={"host_memory": Quantity("48Gi")})
    settings = Settings(trainer_image="registry/trainer:2", accelerators={"nvidia-l4": larger})
    status = started(attempts=(attempt(1, "Stopped", end=60),), image="registry/trainer@sha256:1")
    second = run_json(decide(raw_job(status), earlier_run=first, at=70, settings=settings))
    assert (second["image"], second["accelerator"]["hostMemoryBytes"]) == ("registry/trainer@sha256:1", 48 * 2**30)
    assert second["accelerator"]["hourlyRate"] == first["accelerator"]["hourlyRate"]


# What a release no longer takes, and an earlier one did.
ODD = {"method": {"type": "Telepathy"}, "dataset": {"answerFormat": {"type": "runes"}}}


def odd_job(status: Any = None, **sections: Any) -> dict[str, Any]:
    """A job with a spec that this release would refuse."""
    raw = raw_job(status)
    return {**raw, "spec": merge_patch(raw["spec"], {**ODD, **sections})}


def test_a_job_goes_on_though_this_release_could_not_have_started_it():
    assert telling(decide(odd_job()))[1] == "InvalidSpec"
    first = run_json(decide(raw_job(started())))
    first["spec"] |= ODD
    running = decide(odd_job(started()), raw_attempt(), raw_pod(running=True), at=60)
    assert telling(running)[:2] == ("Running", "Running")
    done = raw_pod(exit_code=0, said=result(Outcome.SUCCEEDED, adapter=ADAPTER))
    assert decide(odd_job(running.status), raw_attempt(ended="Complete"), done).status.adapter == ADAPTER
    stopped = odd_job(started(attempts=(attempt(1, "Stopped", end=60),)))
    assert run_json(decide(stopped, earlier_run=first, at=70)) == {**first, "attempt": 2}
    assert telling(decide(stopped, at=70))[1] == "InvalidSpec", "nobody knows what its trainers got"
    assert telling(decide(odd_job(started())))[1] == "InvalidSpec"


@pytest.mark.parametrize("output", [{"endpointUrl": "http://[::ffff:10.0.0.1]:9000"}, {"endpointUrl": "http://host:00"}])
def test_an_address_that_this_release_refuses_is_its_trainers_affair_and_the_secret_beside_it_is_still_given(output):
    sections = {"output": {"s3": {"credentialsSecretRef": {"name": "keys"}, **output}}}
    assert telling(decide(raw_job(**sections)))[1] == "InvalidSpec"
    running = started(attempts=(attempt(),))
    suspended = decide(raw_job(running, runPolicy={"suspend": True}, **sections), raw_attempt(), raw_pod(running=True))
    assert acts(suspended) == ["delete Job tune-1"]
    first = run_json(decide(raw_job(started())))
    first["spec"]["output"] |= sections["output"]
    again = decide(raw_job(started(attempts=(attempt(1, "Stopped", end=60),)), **sections), earlier_run=first, at=70)
    assert run_json(again) == {**first, "attempt": 2}
    assert '"name": "keys"' in json.dumps(created(again, "Job"))


def test_what_this_release_cannot_read_of_where_a_job_runs_makes_no_attempt():
    stopped = odd_job(started(attempts=(attempt(1, "Stopped", end=60),)), compute={"nodes": "many"})
    decided = decide(stopped, earlier_run=run_json(decide(raw_job(started()))), at=70)
    assert (telling(decided)[1], acts(decided)) == ("InvalidSpec", [])


@pytest.mark.parametrize(("code", "said", "phase"), [
    (0, result(Outcome.SUCCEEDED, adapter=ADAPTER), "Succeeded"), (65, result(Outcome.BAD_DATA), "Failed"),
    (75, result(Outcome.STOPPED), "Running")])
def test_what_a_trainer_came_to_counts_though_its_job_cannot_be_read_any_more(code, said, phase):
    def seen(status: Any, *raws: Any, at: float = 60) -> Any:
        return decide(odd_job(status, runPolicy={"backoffLimit": "some"}), *raws, at=at)

    before = started(attempts=(attempt(),), phase=Phase.RUNNING)
    assert telling(seen(before, raw_attempt(), raw_pod(running=True)))[:2] == ("Running", "InvalidSpec")
    ended = seen(before, raw_attempt(ended="Complete" if code == 0 else "Failed"),
                 raw_pod(exit_code=code, said=said, at=3600), at=3600)
    assert telling(ended)[0] == phase
    if phase != "Running":
        assert ended.status.cost.spent == Decimal("1.0000")


def test_only_plug_ins_that_are_allowed_now_go_along():
    def given(*plugins: str) -> Settings:
        return SETTINGS.model_copy(update={"allowed": Allowed(reward_plugins=plugins)})

    stopped = raw_job(started(attempts=(attempt(1, "Stopped", end=60),)))
    first = run_json(decide(raw_job(started()), settings=given("one", "two")))
    assert first["allowedPlugins"] == ["one", "two"]
    second = run_json(decide(stopped, earlier_run=first, at=70, settings=given("two")))
    assert second == {**first, "attempt": 2, "allowedPlugins": ["two"]}
    assert run_json(decide(stopped, earlier_run=first, at=70))["allowedPlugins"] == []
    del first["allowedPlugins"]  # A release whose trainer does not know them.
    assert run_json(decide(stopped, earlier_run=first, at=70, settings=given("two"))) == {**first, "attempt": 2}


def test_it_is_asked_for_once_there_was_an_attempt():
    seen = observe(raw_job(started(attempts=(attempt(1, "Stopped", end=60),))))
    unread = plan(type(seen)(seen.job), SETTINGS, NOW)
    assert (unread.needs_earlier_run, unread.actions) == (True, ())
    assert not plan(type(seen)(seen.job, earlier_run={}), SETTINGS, NOW).needs_earlier_run
    assert not plan(type(seen)(view_job(raw_job(started()))), SETTINGS, NOW).needs_earlier_run


def test_without_any_earlier_one_it_is_made_as_for_the_first():
    first = run_json(decide(raw_job(started())))
    second = run_json(decide(raw_job(started(attempts=(attempt(1, "Stopped", end=60),))), earlier_run={}, at=70))
    assert second == {**first, "attempt": 2}


def test_the_newest_attempt_that_is_there_is_taken_and_nobody_elses():
    job = view_job(raw_job(started()))
    first = run_json(decide(raw_job(started())))
    second = {**first, "attempt": 2}
    maps = [run_map(1, first), run_map(2, second), run_map(3, first, uid="another"), run_map(4, "[" * 9999),
            run_map(5, {**first, "uid": "another"}), run_map(6, {**first, "specHash": "0" * 64}),
            {**run_map(7, first), "data": {}}]
    limits = run_map(8, first)
    limits["metadata"]["name"] += "-limits"
    assert earlier_run(job, [*maps, limits]) == second
    assert earlier_run(job, maps[:1]) == first
    assert earlier_run(job, maps[2:]) == {}


@pytest.mark.parametrize("path", recorded.ATTEMPTS, ids=recorded.run_name)
def test_a_trainers_command_line_has_no_option_that_an_earlier_release_did_not_have(path):
    """What is new goes into run.json, where it is passed over, or into the environment."""
    first = recorded.read(path)
    made = created(decide(job_of(first, attempt(1, "Preempted", end=60)), earlier_run=first, at=70), "Job")
    (trainer,) = made["spec"]["template"]["spec"]["containers"]
    assert trainer["args"] == ["run", "--config", "/etc/finetune/run", "--limits", "/etc/finetune/limits", "--port",
                               "8080"]
    assert RunConfig.read(json.dumps(first)).spec_hash == first["specHash"]
