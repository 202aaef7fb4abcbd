"""A JSON Schema in a job: text of limited length and depth, judged before anything else reads it."""

from __future__ import annotations

import json

import pytest
from finetune_api import parse_job_text, resolve_defaults, spec_hash
from finetune_api.values.json_schema import DEEPEST, FORM, LONGEST

from tests.api.jobs import TEXT, document, errors_of, job

PATH = "spec.dataset.answerFormat.jsonSchema"


def _with(schema):
    return document(dataset={"answerFormat": {"type": "json", "jsonSchema": schema}})


def _nested(levels):
    return '{"not":' * levels + "{}" + "}" * levels


def test_the_text_of_a_schema_and_the_same_schema_as_an_object_are_one_job():
    schema = {"type": "object", "properties": {"level": {"type": "integer", "maximum": 10**30}}}
    text, plain = (job(dataset={"answerFormat": {"type": "json", name: one}}).spec
                   for name, one in (("jsonSchema", json.dumps(schema, indent=1)), ("schema", schema)))
    assert text == plain
    assert text.dataset.answer_format.json_schema == schema
    assert spec_hash(resolve_defaults(text)) == spec_hash(resolve_defaults(plain))
    dumped = json.loads(text.model_dump_json())
    assert dumped["dataset"]["answerFormat"]["schema"] == schema, "as earlier releases read it"


def test_a_schema_may_stand_as_a_block_of_text_or_as_yaml_in_a_file():
    block = '    answerFormat:\n      type: json\n      jsonSchema: |\n        {"type": "object"}\n'
    yaml = "    answerFormat: {type: json, schema: {type: object}}\n"
    head, tail = TEXT.split("  output:")
    both = [parse_job_text(f"{head}{one}  output:{tail}") for one in (block, yaml)]
    assert both[0] == both[1]


@pytest.mark.parametrize(("schema", "words"), [
    ("type: object", FORM), ("[]", FORM), ("", FORM), (True, FORM), (["object"], FORM),
    ('{"a": 1', "not valid JSON: Expecting ',' delimiter: line 1 column 8"),
    ('{"a": NaN}', "NaN is not a JSON number"),
    ('{"a": 1e999}', "too large"), ('{"a": ' + "9" * 301 + "}", "more than 300 digits"),
    ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ('{"\\ud800": 1}', "half of a surrogate pair"),
    (_nested(DEEPEST), f"nested deeper than {DEEPEST} levels"),
    (_nested(4000), f"nested deeper than {DEEPEST} levels"),
    (json.loads(_nested(DEEPEST)), f"nested deeper than {DEEPEST} levels"),
    ('{"a": "' + "x" * LONGEST + '"}', f"write at most {LONGEST}"),
], ids=lambda value: repr(value)[:30])
def test_what_is_no_schema_that_every_program_can_read_is_refused(schema, words):
    (error,) = errors_of(_with(schema))
    assert (error.path, words in error.message) == (PATH, True), error


def test_a_schema_within_the_limits_is_taken():
    assert errors_of(_with(_nested(DEEPEST - 1))) == []
