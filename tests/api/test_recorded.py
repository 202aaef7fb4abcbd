"""Operator and trainer of two releases: each reads what the other has written, and nobody else is as lenient."""

from __future__ import annotations

import json

import jsonschema
import pytest
from finetune_api import InvalidJob, parse_job, spec_hash
from finetune_api.messages import RunConfig

from tests.api import recorded_files as recorded


@pytest.mark.parametrize("path", recorded.RUNS, ids=recorded.run_name)
def test_what_an_earlier_release_wrote_is_read_and_means_the_same(path):
    content = recorded.read(path)
    config = RunConfig.read(path.read_bytes())
    jsonschema.validate(content, recorded.schema_of(path))
    assert (config.attempt, config.date) == (1, None)
    assert spec_hash(config.spec) == config.spec_hash, (
        "what an earlier release published, or checkpointed, would not be found any more: a new field of the spec has "
        "no default but None")


@pytest.mark.parametrize("path", recorded.RUNS, ids=recorded.run_name)
def test_what_a_later_release_writes_beside_is_passed_over(path):
    content = recorded.read(path)
    for part in (content, content["accelerator"], content["spec"], *content["spec"].values()):
        if isinstance(part, dict):
            part["fieldOfTheFuture"] = {"a": [1]}
    assert RunConfig.read(json.dumps(content)) == RunConfig.read(path.read_bytes())


def test_a_users_own_file_is_read_strictly():
    content = recorded.read(recorded.ATTEMPTS[0])
    body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tune"},
            "spec": {**content["spec"], "fieldOfTheFuture": 1}}
    with pytest.raises(InvalidJob, match="fieldOfTheFuture"):
        parse_job(body)
