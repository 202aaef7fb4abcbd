"""Finding a field by its path, with its type, default and documentation."""

from __future__ import annotations

import pytest
from finetune_api import FineTuneJob
from finetune_api.explain.fields import FieldDoc, document_field, find_fields


def _all(document: FieldDoc) -> list[FieldDoc]:
    found = document_field(FineTuneJob, document.path)
    return [found, *(field for below in found.fields for field in _all(below))]


EVERY = _all(document_field(FineTuneJob, ""))


@pytest.mark.parametrize("document", EVERY, ids=lambda document: document.path or "root")
def test_every_field_can_be_found_and_is_documented(document):
    assert document.description.endswith("."), document.description
    assert document.type
    assert not document.required or document.default is None
    assert "\n" not in document.description


def test_there_are_fields_of_spec_and_status():
    paths = {document.path for document in EVERY}
    assert {"spec.training.batchSize", "spec.compute.tolerations.key", "status.conditions.reason",
            "spec.dataset.answerFormat.jsonSchema", "metadata.name"} <= paths


@pytest.mark.parametrize(("path", "kind", "default", "choices", "limits"), [
    ("spec.training.batchSize", "integer", "16", (), "at least 1, at most 65536"),
    ("spec.training.epochs", "number", None, (), "above 0, at most 1000"),
    ("spec.training.packing", "boolean", "true", (), None),
    ("spec.training.scheduler", "string", "cosine", ("cosine", "linear", "constant"), None),
    ("spec.method.lora.alpha", "number", "32.0", (), "above 0"),
    ("spec.method.lora.targetModules", "list of string", None, (), None),
    ("spec.output.exports", "list of string", "[adapter]", ("adapter", "merged"), None),
    ("spec.model.source", "location", None, (), None),
    ("spec.budget.maxCost", "money", None, (), None),
    ("spec.budget.maxDuration", "duration", None, (), None),
    ("spec.compute.memory", "quantity", None, (), None),
    ("spec.compute.nodeSelector", "object", None, (), None),
    ("spec.compute.tolerations", "list of object", None, (), None),
    ("spec.method", "object", None, (), None),
    ("spec.dataset.answerFormat.jsonSchema", "string", None, (), None),
    ("spec.dataset.sha256", "string", None, (), "of the form ^[0-9a-f]{64}$"),
    ("status.startTime", "string", None, (), None),
])
def test_a_field_tells_its_type_default_values_and_limits(path, kind, default, choices, limits):
    field = document_field(FineTuneJob, path)
    assert (field.type, field.default, field.choices, field.limits) == (kind, default, choices, limits)


def test_a_field_tells_whether_it_must_be_written():
    fields = {field.path: field.required for field in document_field(FineTuneJob, "spec").fields}
    assert [path for path, required in fields.items() if required] == ["spec.model", "spec.dataset", "spec.output"]


@pytest.mark.parametrize(("path", "known"), [
    ("spec.model.name", "no field spec.model.name; the fields there are: source, revision, tokenSecretRef"),
    ("spce", "no field spce; the fields there are: apiVersion, kind, metadata, spec, status"),
    ("spec.training.seed.more", "no field spec.training.seed.more; the fields there are: none"),
])
def test_an_unknown_field_lists_the_known(path, known):
    with pytest.raises(KeyError) as refusal:
        document_field(FineTuneJob, path)
    assert refusal.value.args[0] == known


@pytest.mark.parametrize(("name", "paths"), [
    ("reft", ("spec.method.reft",)),
    ("MAXCOST", ("spec.budget.maxCost",)),
    ("lora.rank", ("spec.method.lora.rank", "spec.method.reft.lora.rank")),
    ("nonsense", ()),
])
def test_a_field_is_found_by_its_name_wherever_it_is(name, paths):
    assert find_fields(FineTuneJob, name) == paths
