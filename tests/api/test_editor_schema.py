"""The JSON Schemas for editors agree with the models, but for the rules that join several fields."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from finetune_api.definition.crd import editor_schema
from finetune_api.definition.experiment_editor_schema import experiment_editor_schema
from finetune_api.experiment.rules import RULES as EXPERIMENT_RULES
from finetune_api.generate import generated_files
from finetune_api.reading.yaml_documents import read_documents
from finetune_api.rules import RULES
from referencing import Registry, Resource

from tests.api.experiments import errors_with, experiment_document
from tests.api.jobs import document, errors_of, nested

SAMPLES = sorted((Path(__file__).parents[2] / "deploy" / "samples").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(editor_schema())
OF_EXPERIMENTS = jsonschema.Draft202012Validator(experiment_editor_schema())
SCHEMAS = {Path(path).name: json.loads(content) for path, content in generated_files().items()
           if path.endswith(".schema.json")}
OF_BOTH = jsonschema.Draft202012Validator(
    SCHEMAS["finetune.schema.json"],
    registry=Registry().with_resources((name, Resource.from_contents(one)) for name, one in SCHEMAS.items()))


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


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_is_one(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", GOOD)
def test_a_good_job_passes_the_models_and_the_schema(name):
    assert errors_of(GOOD[name]) == []
    assert [error.message for error in VALIDATOR.iter_errors(GOOD[name])] == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_job_fails_the_models_and_the_schema(name):
    assert errors_of(BAD[name]) != []
    assert not VALIDATOR.is_valid(BAD[name])


def _patched(**patch) -> dict:
    return {"variants": [{"name": "one"}, {"name": "two", "patch": patch}]}


def _grid(**fields) -> dict:
    return {"sweep": {"grid": {path.replace("__", "."): values for path, values in fields.items()}}}


GOOD_EXPERIMENTS: dict[str, dict] = {
    "the smallest one": {},
    "a patch with one field of a section": _patched(training={"learningRate": 0.5}),
    "a patch that removes": _patched(training={"learningRate": None}, evaluation=None),
    "a patch with a list": _patched(evaluation={"metrics": ["loss"]}),
    "a patch below a list of choices": _patched(method={"lora": {"rank": 4}}),
    "a patch of labels": _patched(compute={"nodeSelector": {"zone": "a", "pool": None}}),
    "a sweep": _grid(training__learningRate=[0.1, 0.2], method__lora__rank=[4, 8]),
    "drawn values": {"sweep": {"random": {"samples": 2, "fields": {
        "training.learningRate": {"minimum": 0.1, "maximum": 0.5}, "method.type": {"values": ["LoRA"]}}}}},
    **{f"{rule.path}: {rule.message}": nested(rule.section, rule.accepts)["spec"] for rule in EXPERIMENT_RULES},
}
BAD_EXPERIMENTS: dict[str, dict] = {
    "no template": {"template": None},
    "no metric": {"rankBy": None},
    "an unknown field": {"paralelism": 2},
    "a typing error in the template": {"template": {"spec": {"training": {"bachSize": 8}}}},
    "a missing field in the template": {"template": {"spec": {"model": None}}},
    "a typing error in a patch": _patched(training={"learningrate": 0.5}),
    "an unknown section in a patch": _patched(trainer={}),
    "a rank of zero in a patch": _patched(method={"lora": {"rank": 0}}),
    "text for a mapping in a patch": _patched(method="DoRA"),
    "a name in capitals": {"variants": [{"name": "One"}]},
    "a typing error in a sweep": _grid(training__learningrate=[0.1]),
    "a section in a sweep": _grid(training=[1]),
    "a value in a sweep that no job has": _grid(method__type=["QLoRA"]),
    "an empty sweep": _grid(training__seed=[]),
    "both kinds of sweep": {"sweep": {"grid": {"training.seed": [1]}, "random": {"samples": 1, "fields": {
        "training.seed": {"values": [1]}}}}},
    "a typing error in what is drawn": {"sweep": {"random": {"samples": 1, "fields": {
        "training.learningrate": {"values": [1]}}}}},
    "too many jobs at once": {"parallelism": 101},
    "a rung of the whole": {"earlyStop": {"rungs": [1.0]}},
}


@pytest.mark.parametrize("name", GOOD_EXPERIMENTS)
def test_a_good_experiment_passes_the_models_and_the_schema(name):
    assert errors_with(**GOOD_EXPERIMENTS[name]) == []
    written = experiment_document(**GOOD_EXPERIMENTS[name])
    assert [error.message for error in OF_EXPERIMENTS.iter_errors(written)] == []


@pytest.mark.parametrize("name", BAD_EXPERIMENTS)
def test_a_bad_experiment_fails_the_models_and_the_schema(name):
    assert errors_with(**BAD_EXPERIMENTS[name]) != []
    assert not OF_EXPERIMENTS.is_valid(experiment_document(**BAD_EXPERIMENTS[name]))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_one_schema_accepts_every_sample_and_no_typing_error_in_it(sample):
    for written, _ in read_documents(sample.read_text(encoding="utf-8")):
        assert [error.message for error in OF_BOTH.iter_errors(written)] == []
        if written["kind"].startswith("FineTune"):
            assert not OF_BOTH.is_valid(written | {"spec": {**written["spec"], "ouput": {}}})
    assert OF_BOTH.is_valid({"apiVersion": "v1", "kind": "Secret", "stringData": {}}), "beside a job in one file"
