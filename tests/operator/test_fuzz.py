"""The short form of the fuzzer; `python -m tests.operator.fuzz` is the long one."""

from __future__ import annotations

import json

import pytest
from finetune_operator.cluster.apiserver.decoding import MAX_DEPTH, decode, usable
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.decide.plan import plan
from finetune_operator.decide.stages.undecidable import plan_after_error

from tests.operator.fuzz import run
from tests.operator.objects import KEY, NOW, SETTINGS, observe, raw_attempt, raw_job, raw_pod, reported, started


def test_no_object_makes_a_pass_raise_and_every_job_has_a_condition():
    ended, wrong = run(400, seed=1)
    assert wrong == []
    assert len(ended) > 10, "they end in many ways"


@pytest.mark.parametrize("levels", [80, 300, 990, 50_000])
def test_a_spec_nested_at_any_depth_is_invalid_for_its_own_job_only(levels):
    schema = '{"not":' * levels + "{}" + "}" * levels
    text = json.dumps(raw_job(dataset={"answerFormat": {"type": "json", "schema": "HERE"}})).replace('"HERE"', schema)
    cache = Cache()
    assert cache.record(usable(decode(text.encode()))) == KEY
    decided = plan(cache.observe(KEY), SETTINGS, NOW)
    phase, reason, message = reported(decided)
    assert (phase, reason) == ("Pending", "InvalidSpec")
    assert message.startswith("spec.dataset.answerFormat.schema: Value error, nested deeper than 64 levels")


def test_a_status_nested_at_any_depth_is_left_out_and_the_rest_is_read():
    for levels in (10, 150, 300, 50_000):
        raw = raw_job(started())
        raw["status"]["evaluation"] = {"before": "HERE"}
        deep = '{"a":' * levels + "1" + "}" * levels
        cache = Cache()
        cache.record(usable(decode(json.dumps(raw).replace('"HERE"', deep).encode())))
        assert cache.view(KEY).status.start_time == NOW
        assert cache.view(KEY).status.evaluation is None


@pytest.mark.parametrize("content", [
    b'{"metadata": "\xff\xfe"}', b'{"a": ' + b"9" * 5000 + b"}", b"[" * (MAX_DEPTH + 5) + b"]" * (MAX_DEPTH + 5),
    b'{"a": "]]]]\\"", "b": ' + b"[" * 2000 + b'"}"' + b"]" * 2000 + b', "c": 1}'])
def test_any_json_is_decoded(content):
    json.dumps(decode(content))


def test_a_value_that_is_cut_off_hides_no_other_value():
    deep = b'{"a": "]]]]\\"", "b": ' + b"[" * 2000 + b'"}"' + b"]" * 2000 + b', "c": 1}'
    assert decode(deep)["a"] == ']]]]"'
    assert decode(deep)["c"] == 1


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2025-12-31T23:59:60Z"])
@pytest.mark.parametrize("name", ["startTime", "completionTime"])
def test_an_unusable_time_does_not_start_a_job_again(name, time):
    raw = raw_job(started())
    raw["status"][name] = time
    cache = Cache()
    cache.record(raw)
    status = cache.view(KEY).status
    assert status.start_time is not None
    assert (status.completion_time is not None) is (name == "completionTime")


def test_an_error_of_the_operator_is_reported_in_the_job_and_its_budget_still_holds():
    budget = {"maxCost": "1", "hourlyRate": "1"}
    running = started(attempts=())
    observation = observe(raw_job(running, budget=budget), raw_attempt(), raw_pod(running=True))
    decided = plan_after_error(observation, SETTINGS, NOW, ZeroDivisionError("by zero"))
    phase, reason, message = reported(decided)
    assert (phase, reason) == ("Starting", "InternalError")
    assert "ZeroDivisionError: by zero" in message
    assert decided.actions == ()
