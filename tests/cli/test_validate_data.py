"""`finetune validate --data`: files, columns, templates, split, schema and rows, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.inputs import ticket_job, write_model_folder, write_tickets
from tests.cli.jobs import call, write_job


@pytest.fixture
def job(tmp_path):
    """Writes a job on a model's folder and forty tickets, with merge patches on its sections."""
    write_model_folder(tmp_path / "model")
    write_tickets(tmp_path / "tickets.csv")
    return lambda **sections: write_job(tmp_path / "job.yaml", **ticket_job(**sections))


def _line(path, text):
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_a_job_whose_rows_can_be_used_is_ok_and_the_rows_are_counted(job):
    path = job()
    result = call("validate", "--data", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{path}: OK for finetune run")
    assert "  rows: 40 read, 32 to learn from, 8 held out\n" in result.stdout


def test_neither_torch_nor_transformers_is_imported(job):
    program = ("import sys; from click.testing import CliRunner; from finetune_cli.main import finetune\n"
               f"result = CliRunner().invoke(finetune, ['validate', '--data', {str(job())!r}])\n"
               "assert result.exit_code == 0, result.output\n"
               "print([name for name in ('torch', 'transformers', 'datasets', 'boto3') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


def test_every_error_of_spec_model_and_rows_is_shown_at_once_with_its_line(job, tmp_path):
    path = job(model={"source": "file://./nowhere"}, training={"bachSize": 8},
               dataset={"prompt": "{{ txt }}", "completion": "{{ teem }}"})
    result = call("validate", "--data", path)
    assert (result.exit_code, result.stdout) == (64, "")
    lines = result.stderr.splitlines()
    assert lines[0] == f"{path}: 4 errors"
    columns = "no row has a column {}; the columns are team, text"
    model, dataset = _line(path, "nowhere"), _line(path, "prompt:")
    for expected in (
        f"  line {model}: spec.model.source: file://{tmp_path}/nowhere: no such folder; check the path",
        f"  line {dataset}: spec.dataset.prompt: {columns.format('txt')}",
        f"  line {_line(path, 'completion:')}: spec.dataset.completion: {columns.format('teem')}",
        f"  line {_line(path, 'bachSize')}: spec.training.bachSize: unknown field: did you mean batchSize?",
    ):
        assert expected in lines, result.stderr


def test_rows_that_break_the_schema_are_named_and_exit_with_65(job, tmp_path):
    path = job()
    write_tickets(tmp_path / "tickets.csv", wrong=(3, 7))
    result = call("validate", "--data", path)
    assert (result.exit_code, result.stdout) == (65, "")
    fault = "the answer breaks the schema at $.team: 'nobody' is not one of ['billing', 'network']"
    assert f"spec.dataset: 2 rows can't be used: train row 3: {fault}; train row 7: {fault}" in result.stderr


@pytest.mark.parametrize(("sections", "code", "message"), [
    ({"dataset": {"source": "file://./nothing.csv"}}, 66, "nothing.csv: no such file"),
    ({"dataset": {"source": "file://./"}}, 66, "contains none of train.jsonl"),
    ({"dataset": {"answerFormat": {"type": "json", "jsonSchema": '{"type": "objekt"}'}}}, 64,
     "spec.dataset.answerFormat.jsonSchema: not a valid JSON Schema"),
    ({"dataset": {"prompt": "{{ text "}}, 64, "spec.dataset.prompt: not a valid template"),
    ({"model": {"source": "file://./model.gguf"}}, 66, "model.gguf: no such file"),
    ({"model": {"source": "file://./tickets.gguf"}}, 64, "tickets.gguf is no GGUF file"),
    ({"model": {"source": "owner/not-in-the-cache"}}, 66, "owner/not-in-the-cache is not in the local cache"),
    ({"model": {"source": "file://./weightless"}}, 66, "has no *.safetensors file"),
], ids=["no data file", "no split", "schema", "template", "no GGUF file", "another file", "hub", "no weights"])
def test_what_is_missing_or_wrong_is_found_without_the_model_being_loaded(job, tmp_path, sections, code, message):
    (tmp_path / "tickets.gguf").write_text("text,team\n")
    write_model_folder(tmp_path / "weightless").joinpath("model.safetensors").unlink()
    result = call("validate", "--data", job(**sections))
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert ": 1 error\n" in result.stderr


def test_a_section_with_errors_is_not_checked_any_further_and_that_is_said(job, tmp_path):
    (tmp_path / "tickets.csv").unlink()
    result = call("validate", "--data", job(dataset={"splitt": "test"}, model={"source": "file://./nowhere"}))
    assert result.exit_code == 64
    assert "spec.dataset.splitt: unknown field: did you mean split?" in result.stderr
    assert "nowhere: no such folder" in result.stderr, "the model is checked all the same"
    assert "  note: spec.dataset was not checked any further: correct its errors first" in result.stderr
    assert "tickets.csv" not in result.stderr


def test_a_file_that_holds_no_job_or_is_missing_is_reported_as_without_data(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("a: [1")
    assert call("validate", "--data", path).stderr == call("validate", path).stderr
    missing = call("validate", "--data", tmp_path / "missing.yaml")
    assert (missing.exit_code, missing.stderr) == (
        66, f"{tmp_path / 'missing.yaml'}: there is no such file; finetune init writes a sample\n")


def test_without_the_trainer_it_says_what_to_install(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "finetune_trainer.run.local_check", None)
    result = call("validate", "--data", job())
    assert result.exit_code == 1
    assert "pip install 'finetune-cli[run]'" in result.stderr
