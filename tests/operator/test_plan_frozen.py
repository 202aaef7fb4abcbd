"""Every attempt of a job gets the run configuration of the first, whatever release of the operator creates it."""

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

from tests.api import recorded_files as recorded
from tests.operator.objects import (
    ADAPTER,
    NOW,
    SETTINGS,
    UID,
    actions_of,
    attempt,
    created,
    decide,
    observe,
    raw_attempt,
    raw_job,
    raw_pod,
    reported,
    result,
    run_json,
    started,
)


def job_of(content: dict[str, Any], *attempts: Any) -> dict[str, Any]:
    """A stored job whose first attempt got this run configuration and has ended."""
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
def test_only_the_memory_plan_changes_after_an_attempt_ran_out_of_memory(path):
    first = recorded.read(path)
    decided = decide(job_of(first, attempt(1, "OutOfMemory", end=60)), earlier_run=first, at=70)
    second = run_json(decided)
    jsonschema.validate(second, recorded.schema_of(path))
    checkpointing = "disabled" if path.stem == "additive" else "enabled"  # Prefix tuning can't have it.
    assert second["spec"]["training"] == {**first["spec"]["training"], "microBatchSize": 1,
                                          "gradientCheckpointing": checkpointing}
    second["spec"]["training"] = first["spec"]["training"]
    assert second == {**first, "attempt": 2}


def test_fields_of_a_later_release_reach_the_trainer_that_knows_them():
    first = {**run_json(decide(raw_job(started()))), "fieldOfTheFuture": {"a": 1}}
    first["spec"]["training"]["fieldOfTheFuture"] = 2
    second = run_json(decide(raw_job(started(attempts=(attempt(1, "Stopped", end=60),))), earlier_run=first, at=70))
    assert second == {**first, "attempt": 2}


def test_a_trainer_gets_the_image_and_the_memory_of_its_own_pod():
    """The image has a digest once a node has pulled it, and an administrator may have raised the memory."""
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


def test_a_job_continues_although_this_release_would_not_have_started_it():
    assert reported(decide(odd_job()))[1] == "InvalidSpec"
    first = run_json(decide(raw_job(started())))
    first["spec"] |= ODD
    running = decide(odd_job(started()), raw_attempt(), raw_pod(running=True), at=60)
    assert reported(running)[:2] == ("Running", "Running")
    done = raw_pod(exit_code=0, said=result(Outcome.SUCCEEDED, adapter=ADAPTER))
    assert decide(odd_job(running.status), raw_attempt(ended="Complete"), done).status.adapter == ADAPTER
    stopped = odd_job(started(attempts=(attempt(1, "Stopped", end=60),)))
    assert run_json(decide(stopped, earlier_run=first, at=70)) == {**first, "attempt": 2}
    assert reported(decide(stopped, at=70))[1] == "InvalidSpec", "nobody knows what its trainers got"
    assert reported(decide(odd_job(started())))[1] == "InvalidSpec"


@pytest.mark.parametrize("output", [{"endpointUrl": "http://[::ffff:10.0.0.1]:9000"}, {"endpointUrl": "http://host:00"}])
def test_an_address_that_this_release_refuses_reaches_the_trainer_with_its_secret(output):
    sections = {"output": {"s3": {"credentialsSecretRef": {"name": "keys"}, **output}}}
    assert reported(decide(raw_job(**sections)))[1] == "InvalidSpec"
    running = started(attempts=(attempt(),))
    suspended = decide(raw_job(running, runPolicy={"suspend": True}, **sections), raw_attempt(), raw_pod(running=True))
    assert actions_of(suspended) == ["delete Job tune-1"]
    first = run_json(decide(raw_job(started())))
    first["spec"]["output"] |= sections["output"]
    again = decide(raw_job(started(attempts=(attempt(1, "Stopped", end=60),)), **sections), earlier_run=first, at=70)
    assert run_json(again) == {**first, "attempt": 2}
    assert '"name": "keys"' in json.dumps(created(again, "Job"))


def test_a_compute_section_that_this_release_cannot_read_creates_no_attempt():
    stopped = odd_job(started(attempts=(attempt(1, "Stopped", end=60),)), compute={"nodes": "many"})
    decided = decide(stopped, earlier_run=run_json(decide(raw_job(started()))), at=70)
    assert (reported(decided)[1], actions_of(decided)) == ("InvalidSpec", [])


@pytest.mark.parametrize(("code", "said", "phase"), [
    (0, result(Outcome.SUCCEEDED, adapter=ADAPTER), "Succeeded"), (65, result(Outcome.BAD_DATA), "Failed"),
    (75, result(Outcome.STOPPED), "Running")])
def test_the_end_of_a_trainer_counts_although_its_job_cannot_be_read_any_more(code, said, phase):
    def decided_at(status: Any, *raws: Any, at: float = 60) -> Any:
        return decide(odd_job(status, runPolicy={"backoffLimit": "some"}), *raws, at=at)

    before = started(attempts=(attempt(),), phase=Phase.RUNNING)
    assert reported(decided_at(before, raw_attempt(), raw_pod(running=True)))[:2] == ("Running", "InvalidSpec")
    ended = decided_at(before, raw_attempt(ended="Complete" if code == 0 else "Failed"),
                 raw_pod(exit_code=code, said=said, at=3600), at=3600)
    assert reported(ended)[0] == phase
    if phase != "Running":
        assert ended.status.cost.spent == Decimal("1.0000")


def test_only_plug_ins_that_are_allowed_now_reach_the_trainer():
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


def test_the_earlier_run_configuration_is_read_once_there_was_an_attempt():
    observation = observe(raw_job(started(attempts=(attempt(1, "Stopped", end=60),))))
    unread = plan(type(observation)(observation.job), SETTINGS, NOW)
    assert (unread.needs_earlier_run, unread.actions) == (True, ())
    assert not plan(type(observation)(observation.job, earlier_run={}), SETTINGS, NOW).needs_earlier_run
    assert not plan(type(observation)(view_job(raw_job(started()))), SETTINGS, NOW).needs_earlier_run


def test_without_an_earlier_run_configuration_it_is_built_as_for_the_first_attempt():
    first = run_json(decide(raw_job(started())))
    second = run_json(decide(raw_job(started(attempts=(attempt(1, "Stopped", end=60),))), earlier_run={}, at=70))
    assert second == {**first, "attempt": 2}


def test_the_run_configuration_of_the_newest_attempt_is_used_and_no_other_jobs():
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
    """New values go into run.json, where earlier releases ignore them, or into the environment."""
    first = recorded.read(path)
    made = created(decide(job_of(first, attempt(1, "Preempted", end=60)), earlier_run=first, at=70), "Job")
    (trainer,) = made["spec"]["template"]["spec"]["containers"]
    assert trainer["args"] == ["run", "--config", "/etc/finetune/run", "--limits", "/etc/finetune/limits", "--port",
                               "8080"]
    assert RunConfig.read(json.dumps(first)).spec_hash == first["specHash"]
