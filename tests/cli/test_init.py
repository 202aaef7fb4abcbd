"""`finetune init`: a commented job that passes `finetune validate`."""

from __future__ import annotations

import importlib.resources
import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from finetune_api import parse_job_text, resolve_defaults
from finetune_api.definition.crd import editor_schema
from finetune_api.experiment.reading import load_experiment
from finetune_api.spec.method import MethodType, Quantization
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.cli.jobs import call

SAMPLE = importlib.resources.files("finetune_cli").joinpath("sample.yaml").read_text(encoding="utf-8")


@pytest.fixture
def sample():
    """The sample's spec with its defaults."""
    return resolve_defaults(parse_job_text(SAMPLE).spec)


def test_the_sample_is_written_and_passes_validate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("init")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == ("Wrote finetunejob.yaml. Edit it, then: "
                             "finetune validate finetunejob.yaml && finetune run finetunejob.yaml\n")
    assert (tmp_path / "finetunejob.yaml").read_text(encoding="utf-8") == SAMPLE
    assert call("validate", "finetunejob.yaml").exit_code == 0


def test_an_experiment_has_the_sample_job_as_its_template(tmp_path, monkeypatch, sample):
    monkeypatch.chdir(tmp_path)
    result = call("init", "--experiment")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Wrote experiment.yaml. Edit it, then: finetune validate experiment.yaml")
    assert call("validate", "experiment.yaml").exit_code == 0
    text = (tmp_path / "experiment.yaml").read_text(encoding="utf-8")
    experiment = load_experiment(tmp_path / "experiment.yaml")
    assert [run.job.spec.method.display_name for run in experiment.runs] == ["QLoRA", "QDoRA", "IA3 (nf4)"]
    assert resolve_defaults(experiment.runs[0].job.spec) == sample
    offered = re.sub(r"^( +)# (sweep:|  grid:|    training|tolerance|earlyStop:|  rungs|  keep)", r"\1\2", text,
                     flags=re.M)
    (tmp_path / "offered.yaml").write_text(offered, encoding="utf-8")
    offered_spec = load_experiment(tmp_path / "offered.yaml").resource.spec
    assert None not in (offered_spec.sweep, offered_spec.early_stop, offered_spec.rank_by.tolerance)


def test_the_file_can_have_another_name(tmp_path):
    assert call("init", tmp_path / "mine.yaml").exit_code == 0
    assert call("validate", tmp_path / "mine.yaml").exit_code == 0


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    result = call("init", path)
    assert (result.exit_code, result.stderr) == (
        73, f"{path} is already there: give another name, or remove it first\n")
    assert path.read_text() == "precious"


def test_a_folder_that_is_missing_is_a_sentence(tmp_path):
    result = call("init", tmp_path / "nowhere" / "mine.yaml")
    assert result.exit_code == 73
    assert result.stderr.endswith("No such file or directory\n")


def test_the_sample_is_the_typical_job(sample):
    assert str(sample.model.source) == "mistralai/Mistral-7B-Instruct-v0.2"
    assert (sample.method.type, sample.method.quantization) == (MethodType.LORA, Quantization.NF4)
    assert (sample.method.lora.rank, sample.method.lora.alpha) == (8, 32)
    assert (str(sample.dataset.source), sample.dataset.revision) == (
        "hf://lbox/lbox_open/ljp_criminal", "refs/convert/parquet")
    assert (sample.dataset.split, sample.dataset.evaluation_split) == ("train", "validation")
    assert str(sample.output.uri) == "s3://my-bucket/adapters"
    assert sample.budget.max_cost == 20


def test_the_sample_passes_the_schema_of_editors():
    document = yaml.safe_load(SAMPLE.replace("2e-4", "0.0002"))  # YAML 1.1 reads 2e-4 as text, editors as a number.
    jsonschema.validate(document, editor_schema())


def test_the_templates_of_the_sample_make_answers_that_keep_its_schema(sample):
    row: dict[str, Any] = {"facts": "피고인은 술에 취한 상태로 운전하였다.",
           "label": {"text": "", "fine_lv": 2, "imprisonment_with_labor_lv": 0, "imprisonment_without_labor_lv": 1}}
    templates = ImmutableSandboxedEnvironment()
    answer = templates.from_string(sample.dataset.completion).render(row)
    assert "\n" not in answer
    assert json.loads(answer) == {
        "fine_lv": 2, "imprisonment_with_labor_lv": 0, "imprisonment_without_labor_lv": 1}
    jsonschema.validate(json.loads(answer), sample.dataset.answer_format.json_schema)
    assert templates.from_string(sample.dataset.prompt).render(row).endswith(row["facts"])


def test_every_block_of_the_sample_is_commented():
    lines = SAMPLE.splitlines()
    blocks = [number for number, line in enumerate(lines) if re.match(r"  [a-z]\w*:$", line)]
    assert len(blocks) == 8
    for number in blocks:
        assert "#" in lines[number - 1] + lines[number + 1], lines[number]


def test_what_the_sample_offers_in_comments_works_too():
    offered = re.sub(r"^( +)# (tokenSecretRef: |s3:$|  endpointUrl: |  credentialsSecretRef: )", r"\1\2", SAMPLE,
                     flags=re.M)
    spec = parse_job_text(offered).spec
    assert spec.model.token_secret_ref.name == "huggingface"
    assert spec.output.s3.endpoint_url == "http://minio.example:9000"
    assert spec.output.s3.credentials_secret_ref.name == "s3-credentials"
