"""The table of methods: every method has what users look for, in the docs and among the samples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from finetune_api.spec.method import METHODS, MethodSpec, MethodType, Quantization

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/methods.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `type: ")]
SAMPLES = [job["spec"]["method"] for path in (ROOT / "deploy/samples").glob("*.yaml")
           if (job := yaml.safe_load(path.read_text()))["kind"] == "FineTuneJob"]


@pytest.mark.parametrize("kind", MethodType, ids=str)
def test_a_method_is_in_the_table_under_its_own_name(kind):
    assert METHODS[kind].name == kind
    assert METHODS[kind].block is None or METHODS[kind].block in MethodSpec.model_fields


@pytest.mark.parametrize("kind", MethodType, ids=str)
def test_a_method_has_a_row_in_the_docs_that_says_which_quantizations_it_takes(kind):
    quantization = next((cells[2].strip() for cells in ROWS if re.match(rf" `type: {kind}`", cells[0])), None)
    assert quantization is not None, "docs/explanation/methods.md, What each method trains and publishes"
    assert quantization.startswith("none, int8, nf4" if METHODS[kind].quantizable else "none")
    assert METHODS[kind].quantizable or "nf4" not in quantization


@pytest.mark.parametrize("kind", MethodType, ids=str)
def test_a_method_has_a_sample(kind):
    assert kind in {sample["type"] for sample in SAMPLES}, "deploy/samples"


@pytest.mark.parametrize(("method", "name"), [
    ({}, "LoRA"), ({"quantization": "nf4"}, "QLoRA"), ({"quantization": "int8"}, "LoRA (int8)"),
    ({"type": "DoRA", "quantization": "nf4"}, "QDoRA"), ({"type": "Full"}, "Full"),
    ({"type": "Additive"}, "IA3"), ({"type": "Additive", "quantization": "nf4"}, "IA3 (nf4)"),
    ({"type": "ReFT"}, "ReFT (LoRA)"), ({"type": "ReFT", "quantization": "nf4"}, "ReFT (QLoRA)"),
    ({"type": "ReFT", "quantization": "int8", "reft": {"policy": "DoRA"}}, "ReFT (int8 DoRA)"),
    ({"type": "ReFT", "reft": {"policy": "Full"}}, "ReFT (Full)"),
])
def test_a_method_is_called_as_people_call_it(method, name):
    assert MethodSpec.model_validate_json(json.dumps(method)).resolved.display_name == name


@pytest.mark.parametrize("kind", MethodType, ids=str)
def test_resolving_a_method_twice_changes_nothing(kind):
    block = METHODS[kind].smallest_block
    method = MethodSpec.model_validate({"type": kind, **({METHODS[kind].block: block} if block else {}),
                                        "quantization": Quantization.NONE})
    assert method.resolved.resolved == method.resolved
