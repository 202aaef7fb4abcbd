"""The JSON Schema for editors agrees with the models, but for the rules that join several fields."""

from __future__ import annotations

import jsonschema
import pytest
from finetune_api.definition.crd import editor_schema
from finetune_api.rules import RULES

from tests.api.jobs import document, errors_of, nested

VALIDATOR = jsonschema.Draft202012Validator(editor_schema())


def _without(path: str) -> dict:
    data = document()
    *parents, last = path.split(".")
    below = data
    for key in parents:
        below = below[key]
    del below[last]
    return data


GOOD = {
    "the smallest job": document(),
    "nulls": document() | {"status": None, "spec": document()["spec"] | {"training": {"epochs": None}, "budget": {
        "maxCost": None}}},
    "numbers as whole numbers": document(training={"learningRate": 0.5, "epochs": 2}, budget={"maxCost": 20}),
    "money in quotes": document(budget={"maxCost": "1.25", "hourlyRate": 0}),
    "quantities": document(compute={"cpu": 4, "memory": "16Gi"}),
    "labels of nodes": document(compute={"nodeSelector": {"topology.kubernetes.io/zone": "a"}}),
    "tolerations": document(compute={"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]}),
    "a json schema": document(dataset={"answerFormat": {"type": "json", "jsonSchema": '{"type": ["null"]}'}}),
    "one as an object": document(dataset={"answerFormat": {"type": "json", "schema": {"type": "null"}}}),
    "a chat": document(dataset={"prompt": None, "completion": None, "messages": "chat"}),
    "a status of the future": document() | {"status": {"phase": "Running", "fieldOfTheFuture": 1}},
    **{f"{rule.path}: {rule.message}": document(**nested(rule.section, rule.accepts)["spec"]) for rule in RULES},
}
BAD = {
    "no version": _without("apiVersion"),
    "no kind": _without("kind"),
    "no name": _without("metadata.name"),
    "no model": _without("spec.model"),
    "no source": _without("spec.dataset.source"),
    "another kind": document() | {"kind": "Job"},
    "another version": document() | {"apiVersion": "finetune.dev/v2"},
    "an unknown field": document(training={"bachSize": 8}),
    "an unknown section": document(trainer={}),
    "the name of Python": document(training={"batch_size": 8}),
    "an unknown method": document(method={"type": "QLoRA"}),
    "a rank of zero": document(method={"lora": {"rank": 0}}),
    "a rank in quotes": document(method={"lora": {"rank": "8"}}),
    "a half rank": document(method={"lora": {"rank": 8.5}}),
    "a learning rate of zero": document(training={"learningRate": 0}),
    "a word for a switch": document(training={"packing": "yes"}),
    "a null where there is a default": document() | {"spec": document()["spec"] | {"training": {"batchSize": None}}},
    "text for a list": document(evaluation={"metrics": "loss"}),
    "an empty list": document(output={"exports": []}),
    "negative money": document(budget={"maxCost": -1}),
    "money as words": document(budget={"maxCost": "a lot"}),
    "a float as money": document(budget={"maxCost": 1.5}),
    "a duration without a unit": document(budget={"maxDuration": "90"}),
    "no processor": document(compute={"cpu": 0}),
    "a scheme that does not fit": document(output={"uri": "hf://owner/name"}),
    "a location without end": document(output={"uri": "s3://bucket/" + "a" * 1024}),
    "text for a mapping": document(method="LoRA"),
    "a name in capitals": document() | {"metadata": {"name": "Big"}},
    "an empty template": document(dataset={"prompt": ""}),
}


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(editor_schema())


@pytest.mark.parametrize("name", GOOD)
def test_a_good_job_passes_the_models_and_the_schema(name):
    assert errors_of(GOOD[name]) == []
    assert [error.message for error in VALIDATOR.iter_errors(GOOD[name])] == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_job_fails_the_models_and_the_schema(name):
    assert errors_of(BAD[name]) != []
    assert not VALIDATOR.is_valid(BAD[name])
