"""The CustomResourceDefinition: up to date, and structural as far as that shows without an apiserver."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.definition.crd import crd
from finetune_api.generate import generated_files
from finetune_api.rules import RULES

from tests.api.jobs import document, errors_of, nested

REPOSITORY = Path(__file__).parents[2]
ROOT = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
STRUCTURAL = {
    "type", "description", "format", "default", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "required",
    "items", "properties", "additionalProperties", "anyOf", "nullable", "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
EXCLUSIVE = ["dataset.prompt", "dataset.completion", "dataset.messages", "dataset.evaluationSplit",
             "dataset.evaluationFraction", "training.epochs", "training.maxSteps", "method.lora", "method.dora"]
AUTOMATIC = ["training.precision", "training.gradientCheckpointing", "training.microBatchSize",
             "training.learningRate", "evaluation.metrics", "evaluation.maxNewTokens", "output.s3.pathStyle"]


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from _nodes(below, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from _nodes(schema["additionalProperties"], f"{path}{{}}")


NODES = dict(_nodes(ROOT))


def _default(schema: dict[str, Any], value: Any) -> Any:
    """What the apiserver stores: defaults filled in, from the outside to the inside."""
    if isinstance(value, list) and "items" in schema:
        return [_default(schema["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    filled = copy.deepcopy(value)
    for name, below in schema.get("properties", {}).items():
        if name not in filled and "default" in below:
            filled[name] = copy.deepcopy(below["default"])
        if name in filled:
            filled[name] = _default(below, filled[name])
    return filled


def _plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON Schema: exclusive bounds are numbers there."""
    plain = {key: value for key, value in schema.items() if key not in ("properties", "items", "additionalProperties")}
    for bound in ("Minimum", "Maximum"):
        if plain.pop(f"exclusive{bound}", False):
            plain[f"exclusive{bound}"] = plain.pop(bound.lower())
    if "properties" in schema:
        plain["properties"] = {name: _plain_schema(below) for name, below in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            plain[key] = _plain_schema(schema[key])
    return plain


@pytest.mark.parametrize("name", generated_files())
def test_a_generated_file_is_up_to_date(name):
    assert (REPOSITORY / name).read_text(encoding="utf-8") == generated_files()[name], "run `make generate`"


def test_the_check_fails_where_a_file_is_out_of_date(tmp_path):
    def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "finetune_api.generate", *arguments, str(tmp_path)],
                              capture_output=True, text=True, check=False)

    assert generate("--check").returncode == 1
    assert generate().returncode == 0
    assert generate("--check").returncode == 0
    (tmp_path / "crds" / "finetunejob.schema.json").write_text("{}")
    stale = generate("--check")
    assert stale.returncode == 1
    assert "finetunejob.schema.json is out of date: run `make generate`" in stale.stderr


def test_the_definition_is_plain_yaml_that_reads_back():
    assert yaml.safe_load(generated_files()["crds/finetune.dev_finetunejobs.yaml"]) == crd()


def test_every_part_uses_only_what_a_structural_schema_has():
    assert {path: extra for path, node in NODES.items() if (extra := set(node) - STRUCTURAL)} == {}


def test_every_part_has_a_type_and_only_an_integer_or_string_has_any_of():
    for path, node in NODES.items():
        if node.get("x-kubernetes-int-or-string"):
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            assert "type" not in node, path
        else:
            assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean"}, path
            assert "anyOf" not in node, path


def test_an_object_has_properties_or_values_but_not_both():
    for path, node in NODES.items():
        assert not {"properties", "additionalProperties"} <= set(node), path
        assert node.get("additionalProperties") is not False, path
        if node.get("type") == "object" and path != "metadata":
            assert node.get("properties") or node.get("additionalProperties") \
                or node.get("x-kubernetes-preserve-unknown-fields"), path


def test_of_the_metadata_only_the_name_is_judged():
    assert list(ROOT["properties"]["metadata"]["properties"]) == ["name"]


def test_every_field_has_a_description():
    named = [path for path in NODES if path and not path.endswith(("[]", "{}")) and path != "metadata"]
    assert [path for path in named if not NODES[path].get("description")] == []
    assert len(named) > 100


def test_no_exclusive_and_no_automatic_field_has_a_default():
    for path in EXCLUSIVE + AUTOMATIC:
        assert "default" not in NODES[f"spec.{path}"], path


def test_every_default_keeps_its_own_schema_and_holds_no_null():
    for path, node in NODES.items():
        if "default" in node:
            assert "null" not in yaml.safe_dump(node["default"]), path
            jsonschema.validate(_default(node, node["default"]), _plain_schema(node))


def test_every_pattern_is_one_that_go_understands():
    for path, node in NODES.items():
        if pattern := node.get("pattern"):
            re.compile(pattern)
            assert "(?" not in pattern, path
            assert all(int(count) <= 1000 for count in re.findall(r"[{,](\d+)}", pattern)), path
            assert pattern.startswith("^") and pattern.endswith("$"), path


def test_lists_and_texts_of_the_status_are_bounded():
    for path, node in NODES.items():
        if path.startswith("status") and node.get("type") == "array":
            assert "maxItems" in node, path


def test_the_printed_columns_exist():
    for column in crd()["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = re.sub(r"\[\?\(@\.type==\"Progressing\"\)\]", "[]", column["jsonPath"].lstrip("."))
        assert path in NODES or path == "metadata.creationTimestamp"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}: {rule.message}")
def test_the_defaults_of_the_apiserver_change_no_verdict(rule):
    for section, refused in ((rule.accepts, False), (rule.refuses, True)):
        stored = _default(ROOT, document(**nested(rule.section, section)["spec"]))
        assert [(error.path, error.message) for error in errors_of(stored)] == (
            [(rule.path, rule.message)] if refused else [])


def test_a_stored_job_decides_the_same_as_the_one_that_was_written():
    written = document(training={"maxSteps": 5}, method={"quantization": "nf4"})
    stored = _default(ROOT, written)
    assert stored["spec"]["method"] == {"quantization": "nf4", "type": "LoRA"}
    assert stored["spec"]["training"]["batchSize"] == 16
    digests = {spec_hash(resolve_defaults(parse_job(data).spec)) for data in (written, stored)}
    assert len(digests) == 1
