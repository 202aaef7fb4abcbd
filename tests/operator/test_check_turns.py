"""Checks take turns: bounded everywhere and in a namespace, and no wait is a loop."""

from __future__ import annotations

from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.decide.check_turns import CheckTurns, reason_in, reason_of
from finetune_operator.observed.observation import Checks

from tests.operator.objects import NOW, acts, decide, observe, raw_check, raw_check_pod, raw_job

REQUIRED = {"runPolicy": {"preflight": "Required"}}
CHECKED = decide(raw_job(**REQUIRED)).status


def one(name, namespace="a"):
    return namespace, name


def test_all_states_count_in_a_namespace_and_only_those_that_run_everywhere():
    turns = CheckTurns()
    for name, reason in (("1", "Preflight"), ("2", "Unschedulable"), ("3", "WaitingForQuota"), ("4", "CannotStart")):
        turns.note(one(name), reason)
    turns.note(one("5"), "WaitingForCheck")
    turns.note(one("1", "b"), "Preflight")
    assert turns.beside(one("5")) == Checks(working=2, in_namespace=4)
    assert turns.beside(one("1", "b")) == Checks(working=1, in_namespace=0), "not itself"


def test_whoever_waits_is_looked_at_when_something_has_changed_and_then_not_again():
    turns = CheckTurns()
    turns.note(one("runs"), "Preflight")
    for name in ("first", "second"):
        turns.note(one(name), "WaitingForCheck")
    turns.note(one("other", "b"), "WaitingForCheck")
    turns.next()
    assert turns.next() == ()
    turns.note(one("runs"), None)
    assert turns.next() == (one("first"), one("other", "b"))
    turns.note(one("first"), "WaitingForCheck")
    assert turns.next() == (), "it waits on: no news"
    turns.note(one("first"), "Preflight")
    assert turns.next() == (one("other", "b"), one("second")), "there may be room for another; namespaces take turns"


def test_what_a_job_is_told_decides_whether_it_has_a_check():
    for raws, reason in (([], "Preflight"), ([raw_check(suspended=True)], "WaitingForQuota"),
                         ([raw_check(), raw_check_pod(unschedulable="0/3 nodes")], "Unschedulable"),
                         ([raw_check(ended="Failed"), raw_check_pod(exit_code=1)], None),
                         ([raw_check(ended="Failed"), raw_check_pod(exit_code=65)], None)):
        decided = decide(raw_job(CHECKED, **REQUIRED), *raws)
        assert reason_of(decided.status) == reason_in(raw_job(decided.status, **REQUIRED)) == reason
    assert reason_in(raw_job()) is None


def test_a_job_that_a_finalizer_holds_gives_its_turn_and_its_check_back():
    held = raw_job(CHECKED, deleting=True, **REQUIRED)
    assert reason_in(held) is None
    decided = decide(held, raw_check(), raw_check_pod(running=True))
    assert acts(decided) == ["delete Job tune-1-preflight", "delete ConfigMap tune-1-preflight-11111111"]
    assert decided.status == CHECKED


def test_a_finished_job_takes_no_turn_whatever_its_phase_is():
    finished = CHECKED.model_copy(update={"start_time": NOW, "completion_time": NOW})
    assert reason_of(finished) is reason_in(raw_job(finished)) is None


def test_the_cache_knows_them_from_the_jobs_themselves_and_forgets_those_that_are_gone():
    cache = Cache()
    there = raw_job(CHECKED, **REQUIRED)
    cache.note(there)
    other = raw_job(uid="2" * 36, **REQUIRED)
    other["metadata"]["name"] = "other"
    cache.note(other)
    assert cache.observe(("team", "other")).checks == Checks(working=1, in_namespace=1)
    assert cache.observe(("team", "tune")).checks == Checks()
    cache.turns.note(("team", "other"), "Preflight")
    assert cache.observe(("team", "tune")).checks == Checks(working=1, in_namespace=1), "about to be made"
    cache.next_checks(("team", "other"))
    assert cache.observe(("team", "tune")).checks == Checks(), "the pass failed: nothing of the kind was written"
    cache.note(there, deleted=True)
    assert cache.observe(("team", "other")).checks == Checks()
    assert observe(raw_job()).checks == Checks()
