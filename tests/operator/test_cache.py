"""What the cache takes for its own."""

from __future__ import annotations

import pytest
from finetune_operator.cache import Cache
from finetune_operator.names import ATTEMPT_LABEL, INDEX_ANNOTATION, UID_LABEL

from tests.operator.objects import KEY, NOW, attempt, raw_attempt, raw_job, raw_pod, started


def without(raw, label):
    del raw["metadata"]["labels"][label]
    return raw


def numbered(raw):
    raw["metadata"]["labels"] |= {ATTEMPT_LABEL: "first"}
    return raw


def indexed(raw, index):
    raw["metadata"]["annotations"] = {INDEX_ANNOTATION: index}
    return raw


@pytest.mark.parametrize("raw", [
    without(raw_attempt(), ATTEMPT_LABEL), without(raw_attempt(), UID_LABEL), numbered(raw_attempt()),
    without(raw_pod(), ATTEMPT_LABEL), numbered(raw_pod()), indexed(raw_pod(), "zero"),
])
def test_what_carries_our_labels_by_halves_is_somebody_elses(raw):
    cache = Cache()
    cache.note(raw_job())
    assert cache.note(raw) is None
    assert cache.observe(KEY).attempts == ()


@pytest.mark.parametrize(("records", "settled"), [
    ([], True), ([attempt(end=1, reason="Succeeded")], True), ([attempt(reason="Succeeded")], False)])
def test_a_finished_job_is_looked_at_until_its_last_node_is_free(records, settled):
    cache = Cache()
    cache.note(raw_job(started(attempts=tuple(records), completion_time=NOW, observed_generation=1)))
    assert cache.is_settled(KEY) == settled


def test_a_pod_of_ours_is_taken():
    cache = Cache()
    cache.note(raw_job())
    assert cache.note(indexed(raw_pod(), "3")) == KEY
    assert cache.observe(KEY).attempts[0].pods[0].index == 3


def test_the_jobs_that_a_thread_goes_through_do_not_change_under_it():
    cache = Cache()
    cache.note(raw_job())
    jobs = cache.jobs()
    cache.note(raw_job(), deleted=True)
    assert [key for key, _ in jobs] == [KEY]
