"""The decision about pods with a sidecar: the end of the trainer is the end of the attempt."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from finetune_api.messages import Outcome, PreflightResult, PreflightVerdict
from finetune_api.status import Retries

from tests.operator.objects import (
    ADAPTER,
    NOW,
    actions_of,
    attempt,
    brief_records,
    decide,
    raw_attempt,
    raw_check,
    raw_check_pod,
    raw_job,
    raw_pod,
    reported,
    result,
    started,
    two_passes,
)

DONE = result(Outcome.SUCCEEDED, "trained 10 steps", adapter=ADAPTER)
CHECKED = {"runPolicy": {"preflight": "Required"}}
PASSED = PreflightResult(verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, message="36 rows to learn from")


def beside(code: int | None = None, said: Any = "", **known: Any) -> dict[str, Any]:
    """A pod whose trainer ends, or runs, while a sidecar runs on."""
    return raw_pod(exit_code=code, said=said, running=code is None, beside=math.inf, **known)


def test_a_result_counts_at_once_and_the_node_is_paid_for_until_it_is_free():
    ended, following = two_passes(started(), raw_attempt(), beside(0, DONE), at=3600)
    assert reported(ended) == ("Succeeded", "Succeeded", "trained 10 steps")
    assert ended.status.adapter == ADAPTER
    assert brief_records(ended) == (attempt(reason="Succeeded", resumedFromStep=0),), "its node is still held"
    assert ended.status.cost.spent == Decimal("1.0000")
    assert actions_of(following) == ["delete Job tune-1"]
    leaving = [raw_attempt(deleting=True), beside(0, DONE, leaving=True, at=3720)]
    waits = decide(raw_job(ended.status), *leaving, at=3700)
    assert (waits.status, actions_of(waits)) == (ended.status, [])
    last = raw_pod(exit_code=0, said=DONE, leaving=True, at=3600, beside=3636)
    gone = decide(raw_job(ended.status), raw_attempt(deleting=True), gone=(last,), at=3640)
    assert brief_records(gone) == (attempt(reason="Succeeded", end=3636, resumedFromStep=0),)
    assert gone.status.cost.spent == Decimal("1.0100")
    assert reported(gone) == reported(ended)


def test_a_pod_that_ends_with_its_trainer_is_left_to_its_job():
    """Some time passes between the end of a container and that of its Job: pod and logs are not deleted meanwhile."""
    for pod in (raw_pod(exit_code=0, said=DONE), raw_pod(exit_code=0, said=DONE, beside=61)):
        decided = decide(raw_job(started()), raw_attempt(), pod, at=61)
        assert (brief_records(decided), actions_of(decided)[1:]) == ((attempt(),), [])
        ended, following = two_passes(started(), raw_attempt(ended="Complete"), pod)
        assert (ended.status.phase, actions_of(following)) == ("Succeeded", [])


@pytest.mark.parametrize("waiting", [False, True], ids=["runs", "never started"])
def test_a_retry_waits_for_the_node_that_something_holds(waiting):
    pod = beside(1)
    if waiting:
        pod["status"]["containerStatuses"][1]["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
    ended, following = two_passes(started(), raw_attempt(), pod, at=100)
    assert reported(ended)[1] == "Retrying"
    assert ended.status.retries == Retries(counted=1)
    assert actions_of(following) == ["delete Job tune-1"]
    leaving = [raw_attempt(deleting=True), beside(1, leaving=True, at=220)]
    waits = decide(raw_job(ended.status), *leaving, at=150)
    assert (actions_of(waits), waits.status.retries) == ([], Retries(counted=1)), "one end counts once"
    gone = decide(raw_job(ended.status), at=160)
    assert brief_records(gone) == (attempt(reason="UnknownExit", end=160),)
    assert "create Job tune-2" in actions_of(decide(raw_job(gone.status), at=170))


def test_an_operator_that_missed_the_last_of_a_pod_takes_what_it_saw():
    for leaving, end in ((True, 90), (False, 60)):
        pod = beside(75, result(Outcome.STOPPED), leaving=leaving)
        if leaving:
            pod["metadata"]["deletionTimestamp"] = NOW.replace(minute=1, second=30).strftime("%Y-%m-%dT%H:%M:%SZ")
        decided = decide(raw_job(started()), raw_attempt(deleting=True), gone=(pod,), at=100)
        assert brief_records(decided) == (attempt(reason="Stopped", end=end, resumedFromStep=0),)


def test_one_failed_trainer_of_several_ends_the_attempt():
    two = {"compute": {"nodes": 2}}
    failed, running = beside(65, result(Outcome.BAD_DATA, "row 7"), index=0), beside(index=1)
    decided = decide(raw_job(started(), **two), raw_attempt(), failed, running, at=70)
    assert reported(decided)[1] == "Stopping"
    assert actions_of(decided) == ["delete Job tune-1"], "it would wait for the first"
    stopped = beside(75, result(Outcome.STOPPED), index=1)
    ended = decide(raw_job(decided.status, **two), raw_attempt(deleting=True), failed, stopped, at=80)
    assert reported(ended) == ("Failed", "BadData", "row 7")


def test_one_finished_trainer_of_several_waits_for_the_others():
    decided = decide(raw_job(started(), compute={"nodes": 2}), raw_attempt(), beside(0, DONE, index=0),
                     beside(index=1), at=70)
    assert (decided.status.phase, brief_records(decided)) == ("Running", (attempt(),))


def test_a_check_ends_with_its_trainer_too():
    def check(code: int, said: PreflightResult | str) -> Any:
        words = said.to_bytes().decode() if isinstance(said, PreflightResult) else said
        return decide(raw_job(decide(raw_job(**CHECKED)).status, **CHECKED), raw_check(),
                      raw_check_pod(exit_code=code, said=words, beside=math.inf))

    passed = check(0, PASSED)
    assert passed.status.start_time == NOW
    following = decide(raw_job(passed.status, **CHECKED), raw_check(),
                       raw_check_pod(exit_code=0, said="", beside=math.inf))
    assert "delete Job tune-1-preflight" in actions_of(following)
    refused = PASSED.model_copy(update={"verdict": PreflightVerdict.REFUSED, "reason": Outcome.BAD_DATA})
    assert reported(check(65, refused))[:2] == ("Pending", "BadData")
    assert reported(check(1, ""))[1] == "Retrying"
