"""How a job is run decides nothing of its result."""

import pytest
from finetune_api.resolve import spec_hash
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import RunPolicy
from pydantic import ValidationError

SPEC = {"model": {"source": "owner/name"}, "dataset": {"source": "hf://owner/rows", "prompt": "{{ q }}",
                                                       "completion": "{{ a }}"}, "output": {"uri": "s3://bucket/out"}}


@pytest.mark.parametrize("name", ["first", "first-2", "first/0f3a-11", "f" * 40 + "/" + "0" * 64])
def test_an_earlier_job_is_named_by_its_name_and_perhaps_its_uid(name):
    policy = RunPolicy.model_validate({"resumeFrom": name})
    assert policy.resume_from == name
    plain = FineTuneJobSpec.model_validate(SPEC)
    assert spec_hash(plain.model_copy(update={"run_policy": policy})) == spec_hash(plain)


@pytest.mark.parametrize("name", ["", "../other", "other/../x", "/x", "a/", "A", "a/b/c", "a_b", "a" * 41, "a\n"])
def test_nothing_else_is_a_name_of_a_job(name):
    with pytest.raises(ValidationError):
        RunPolicy.model_validate({"resumeFrom": name})
