"""Errors of text fields describe the form in words and give an example, not a regular expression."""

import re
from typing import Any

import pytest
from finetune_api import InvalidJob
from finetune_api.job import FineTuneJob
from finetune_api.reading.loading import parse_job
from finetune_api.reading.text_forms import TEXT_FORMS, describe_form
from finetune_api.values.quantities import DURATION_PATTERN, MONEY_PATTERN, QUANTITY_PATTERN

_OWN_WORDS = {DURATION_PATTERN, MONEY_PATTERN, QUANTITY_PATTERN}
"""Patterns whose types have messages of their own; so have all locations (`s3://…`)."""


def _patterns(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {found for one in schema for found in _patterns(one)}
    if not isinstance(schema, dict):
        return set()
    keys = set(schema.get("patternProperties", {}))
    own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
    return own | keys | {found for name, one in schema.items() if name != "default" for found in _patterns(one)}


def test_every_pattern_that_a_user_can_break_has_words():
    schema = FineTuneJob.model_json_schema(by_alias=True)
    for name in ("FineTuneJobStatus", "Condition"):  # The operator writes these.
        schema["$defs"].pop(name)
    patterns = {one for one in _patterns(schema) - _OWN_WORDS if "s3://" not in one}
    assert patterns - set(TEXT_FORMS) == set()


@pytest.mark.parametrize("pattern", TEXT_FORMS)
def test_the_example_of_a_form_has_that_form(pattern):
    words = describe_form(pattern)
    example = "0" * 64 if "SHA-256" in words else words.rpartition("such as ")[2]
    assert re.fullmatch(pattern, example)


def test_an_error_shows_the_words_and_no_regular_expression():
    with pytest.raises(InvalidJob) as error:
        parse_job({"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "My_Job"}})
    assert ('metadata.name is "My_Job": write up to 40 lower-case letters, digits and hyphens, with a letter first and '
            "no hyphen last, such as my-job") in str(error.value)
    assert "^" not in str(error.value)
