"""What the cache takes for its own, and how much of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from finetune_operator.cluster.apiserver.client import PAGE
from finetune_operator.cluster.apiserver.decoding import trim
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.cache.keys import key_of
from finetune_operator.cluster.watch.kopf_settings import watch_settings
from finetune_operator.names import ATTEMPT_LABEL, INDEX_ANNOTATION, UID_LABEL

from tests.operator.objects import KEY, NOW, attempt, raw_attempt, raw_check_pod, raw_job, raw_pod, started


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
    cache.record(raw_job())
    assert cache.record(raw) is None
    assert cache.observe(KEY).attempts == ()


@pytest.mark.parametrize(("records", "settled"), [
    ([], True), ([attempt(end=1, reason="Succeeded")], True), ([attempt(reason="Succeeded")], False)])
def test_a_finished_job_is_looked_at_until_its_last_node_is_free(records, settled):
    cache = Cache()
    cache.record(raw_job(started(attempts=tuple(records), completion_time=NOW, observed_generation=1)))
    assert cache.is_settled(KEY) == settled


def test_a_pod_of_ours_is_taken():
    cache = Cache()
    cache.record(raw_job())
    assert cache.record(indexed(raw_pod(), "3")) == KEY
    assert cache.observe(KEY).attempts[0].pods[0].index == 3


def test_the_jobs_that_a_thread_goes_through_do_not_change_under_it():
    cache = Cache()
    cache.record(raw_job())
    jobs = cache.jobs()
    cache.record(raw_job(), deleted=True)
    assert [key for key, _ in jobs] == [KEY]


def test_a_megabyte_that_somebody_writes_into_an_objects_metadata_is_not_held():
    much = {"x" * 300: "y" * 1000}
    for raw in (raw_job(), raw_attempt(), raw_pod(), raw_check_pod()):
        before = trim(raw)
        metadata = raw["metadata"]
        metadata |= {"finalizers": ["z" * 1000], "managedFields": [much], "selfLink": "x" * 1000,
                     "labels": {**metadata.get("labels", {}), **much},
                     "annotations": {**metadata.get("annotations", {}), **much},
                     "ownerReferences": [*metadata.get("ownerReferences", ()), {"uid": "w" * 1000}]}
        assert trim(raw) == before == trim(before)


def test_a_page_of_the_largest_objects_fits_into_the_operators_memory():
    values = yaml.safe_load((Path(__file__).parents[2] / "charts/finetune-operator/values.yaml").read_text())
    limit = int(values["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    largest, copies = 3 * 2**19, 3
    assert PAGE * largest * copies < limit / 2
    assert watch_settings().watching.chunk_size == PAGE


def test_a_job_whose_attempt_has_no_number_of_ours_is_none_of_ours():
    for number in ("0", "01", "1234567890", "-1", "1.5", ""):
        raw = raw_attempt()
        raw["metadata"]["labels"][ATTEMPT_LABEL] = number
        assert key_of(raw) is None
