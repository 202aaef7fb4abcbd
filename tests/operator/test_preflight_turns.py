"""Preflight checks take turns: they are bounded in all namespaces and in each, and no wait is a loop."""

from __future__ import annotations

from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.decide.preflight.turns import PreflightTurns, preflight_reason, stored_preflight_reason
from finetune_operator.observed.observation import OtherPreflights

from tests.operator.objects import NOW, actions_of, decide, observe, raw_check, raw_check_pod, raw_job

REQUIRED = {"runPolicy": {"preflight": "Required"}}
CHECKED = decide(raw_job(**REQUIRED)).status


def one(name, namespace="a"):
    return namespace, name


def test_checks_in_every_state_count_in_their_namespace_and_running_ones_everywhere():
    turns = PreflightTurns()
    for name, reason in (("1", "Preflight"), ("2", "Unschedulable"), ("3", "WaitingForQuota"), ("4", "CannotStart")):
        turns.record(one(name), reason)
    turns.record(one("5"), "WaitingForCheck")
    turns.record(one("1", "b"), "Preflight")
    assert turns.others_of(one("5")) == OtherPreflights(running=2, in_namespace=4)
    assert turns.others_of(one("1", "b")) == OtherPreflights(running=1, in_namespace=0), "not itself"


def test_a_waiting_job_is_planned_again_once_after_each_change():
    turns = PreflightTurns()
    turns.record(one("runs"), "Preflight")
    for name in ("first", "second"):
        turns.record(one(name), "WaitingForCheck")
    turns.record(one("other", "b"), "WaitingForCheck")
    turns.next_in_turn()
    assert turns.next_in_turn() == ()
    turns.record(one("runs"), None)
    assert turns.next_in_turn() == (one("first"), one("other", "b"))
    turns.record(one("first"), "WaitingForCheck")
    assert turns.next_in_turn() == (), "it waits on: no news"
    turns.record(one("first"), "Preflight")
    assert turns.next_in_turn() == (one("other", "b"), one("second")), "another may start; namespaces take turns"


def test_the_conditions_of_a_job_say_whether_it_has_a_check():
    for raws, reason in (([], "Preflight"), ([raw_check(suspended=True)], "WaitingForQuota"),
                         ([raw_check(), raw_check_pod(unschedulable="0/3 nodes")], "Unschedulable"),
                         ([raw_check(ended="Failed"), raw_check_pod(exit_code=1)], None),
                         ([raw_check(ended="Failed"), raw_check_pod(exit_code=65)], None)):
        decided = decide(raw_job(CHECKED, **REQUIRED), *raws)
        assert preflight_reason(decided.status) == reason
        assert stored_preflight_reason(raw_job(decided.status, **REQUIRED)) == reason
    assert stored_preflight_reason(raw_job()) is None


def test_a_job_that_a_finalizer_holds_gives_its_turn_and_its_check_back():
    held = raw_job(CHECKED, deleting=True, **REQUIRED)
    assert stored_preflight_reason(held) is None
    decided = decide(held, raw_check(), raw_check_pod(running=True))
    assert actions_of(decided) == ["delete Job tune-1-preflight", "delete ConfigMap tune-1-preflight-11111111"]
    assert decided.status == CHECKED


def test_a_finished_job_takes_no_turn_whatever_its_phase_is():
    finished = CHECKED.model_copy(update={"start_time": NOW, "completion_time": NOW})
    assert preflight_reason(finished) is stored_preflight_reason(raw_job(finished)) is None


def test_the_cache_counts_checks_by_their_jobs_and_forgets_deleted_jobs():
    cache = Cache()
    there = raw_job(CHECKED, **REQUIRED)
    cache.record(there)
    other = raw_job(uid="2" * 36, **REQUIRED)
    other["metadata"]["name"] = "other"
    cache.record(other)
    assert cache.observe(("team", "other")).other_preflights == OtherPreflights(running=1, in_namespace=1)
    assert cache.observe(("team", "tune")).other_preflights == OtherPreflights()
    cache.turns.record(("team", "other"), "Preflight")
    about_to_be_created = OtherPreflights(running=1, in_namespace=1)
    assert cache.observe(("team", "tune")).other_preflights == about_to_be_created
    cache.next_checks(("team", "other"))
    assert cache.observe(("team", "tune")).other_preflights == OtherPreflights(), "the pass wrote no status"
    cache.record(there, deleted=True)
    assert cache.observe(("team", "other")).other_preflights == OtherPreflights()
    assert observe(raw_job()).other_preflights == OtherPreflights()
