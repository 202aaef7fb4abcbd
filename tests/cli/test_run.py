"""`finetune run`: a thin shell around the trainer; what it refuses before the trainer is even loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from finetune_api import load_job
from finetune_cli.job_file import with_absolute_locations

from tests.cli.jobs import call, write_job


@pytest.mark.parametrize(("sections", "message"), [
    ({"method": {"type": "QLoRA"}}, 'spec.method.type is "QLoRA": write type: LoRA with quantization: nf4'),
    ({"training": {"bachSize": 8}}, "spec.training.bachSize: unknown field: did you mean batchSize?"),
    ({"method": {"lora": {"rank": 0}}}, "spec.method.lora.rank is 0: write a number of at least 1"),
    ({"training": {"batchSize": 8, "microBatchSize": 9}},
     "spec.training.microBatchSize is 9: "),
    ({"model": {"source": "pickle.bin"}}, 'spec.model.source is "pickle.bin": write a location'),
    ({"output": {"uri": "ftp://host/x"}}, 'spec.output.uri is "ftp://host/x": ftp:// is not possible here'),
], ids=["unknown method", "unknown field", "rank 0", "micro-batch larger than batch",
        "no location", "unknown scheme"])
def test_a_bad_description_exits_64_and_says_what_to_write(tmp_path, sections, message):
    path = write_job(tmp_path / "job.yaml", **sections)
    result = call("run", path)
    assert (result.exit_code, result.stdout) == (64, "")
    assert result.stderr.startswith(f"{path}: 1 error\n")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_file_exits_66_and_says_how_to_get_one(tmp_path):
    path = tmp_path / "missing.yaml"
    result = call("run", path)
    assert (result.exit_code, result.stdout, result.stderr) == (
        66, "", f"{path}: there is no such file; finetune init writes a sample\n")


def test_a_file_that_cannot_be_opened_exits_66(tmp_path):
    result = call("run", tmp_path)
    assert (result.exit_code, result.stderr) == (66, f"{tmp_path}: Is a directory\n")


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_an_impossible_port_exits_64(tmp_path, port):
    result = call("run", write_job(tmp_path / "job.yaml"), "--port", port)
    assert result.exit_code == 64
    assert "Invalid value for '--port'" in result.stderr


def test_without_the_trainer_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "finetune_trainer.run.local", None)
    path = write_job(tmp_path / "job.yaml")
    result = call("run", path)
    assert result.exit_code == 1
    assert result.stderr.startswith("the trainer can't be loaded")
    assert "pip install 'finetune-cli[run]'" in result.stderr
    assert f"kubectl apply -f {path}" in result.stderr


def test_only_the_plugins_that_the_command_names_are_allowed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("finetune_trainer.run.local.run_job", lambda job, console, options: seen.append(options) or 0)
    path = write_job(tmp_path / "job.yaml")
    assert call("run", path).exit_code == 0
    assert call("run", path, "--allow-plugin", "by-length", "--allow-plugin", "other").exit_code == 0
    assert [options.allowed_plugins for options in seen] == [(), ("by-length", "other")]


def test_locations_of_files_become_absolute_relative_to_the_yaml_file(tmp_path):
    path = write_job(tmp_path / "job.yaml", model={"source": "file://./model"},
                     dataset={"source": "file://./../data/rows.jsonl"}, output={"uri": "file://./out/"})
    spec = with_absolute_locations(load_job(path), path.parent).spec
    assert spec.model.source.local_path() == tmp_path / "model"
    assert spec.dataset.source.local_path() == tmp_path.parent / "data" / "rows.jsonl"
    assert str(spec.output.uri) == f"file://{tmp_path}/out/"


def test_a_file_named_without_its_folder_still_gives_absolute_locations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path / "job.yaml", output={"uri": "file://./out"})
    path = Path("job.yaml")
    assert with_absolute_locations(load_job(path), path.parent).spec.output.uri.local_path() == tmp_path / "out"


def test_other_locations_stay_as_they_are(tmp_path):
    job = load_job(write_job(tmp_path / "job.yaml"))
    assert with_absolute_locations(job, tmp_path) == job
