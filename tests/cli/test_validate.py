"""`finetune validate`: OK or everything that is wrong, and an exit code that tells."""

from __future__ import annotations

import pytest

from tests.cli.jobs import call, write_job


def test_a_valid_job_is_ok(tmp_path):
    path = write_job(tmp_path / "job.yaml")
    result = call("validate", path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: OK\n", "")


def test_every_error_of_a_job_is_shown_and_the_exit_code_is_64(tmp_path):
    path = write_job(tmp_path / "job.yaml", training={"bachSize": 8, "seed": -1})
    result = call("validate", path)
    assert (result.exit_code, result.stdout) == (64, "")
    assert result.stderr.splitlines() == [
        f"{path}: 2 errors",
        "  line 15: spec.training.bachSize: unknown field: did you mean batchSize?",
        "  line 16: spec.training.seed is -1: write a number of at least 0",
    ]


def test_every_file_is_checked_even_after_a_bad_one(tmp_path):
    good, bad = write_job(tmp_path / "good.yaml"), write_job(tmp_path / "bad.yaml", engine="fast")
    missing = tmp_path / "missing.yaml"
    result = call("validate", bad, missing, good)
    assert result.exit_code == 64
    assert result.stdout == f"{good}: OK\n"
    assert f"{bad}: 1 error" in result.stderr
    assert f"{missing}: there is no such file" in result.stderr


def test_a_file_that_is_missing_exits_66(tmp_path):
    result = call("validate", write_job(tmp_path / "good.yaml"), tmp_path / "missing.yaml")
    assert result.exit_code == 66


def test_a_folder_cannot_be_read_as_a_job(tmp_path):
    result = call("validate", tmp_path)
    assert (result.exit_code, result.stderr) == (66, f"{tmp_path}: Is a directory\n")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "0 documents of kind FineTuneJob: write exactly one"),
    (b"\xff\xfe", "not UTF-8 at byte 0: save the file as UTF-8"),
    (b"a: [1", "line 1: not valid YAML"),
    (b"a: 1\na: 2\n", "line 2: not valid YAML: the key 'a' stands twice"),
    (b"[1, 2]", "write a mapping with apiVersion, kind: FineTuneJob, metadata and spec"),
    (b'engine: "\\ud800"', "text that is not valid Unicode"),
])
def test_what_is_no_job_is_refused_with_a_sentence(tmp_path, content, message):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    result = call("validate", path)
    assert result.exit_code == 64
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_without_a_file_the_usage_is_shown():
    result = call("validate")
    assert result.exit_code == 64
    assert "Missing argument 'FILE...'" in result.stderr


def test_what_only_finetune_run_takes_is_told_with_what_a_cluster_takes(tmp_path):
    path = write_job(tmp_path / "job.yaml", output={"uri": "file://./out"}, dataset={
        "answerFormat": {"type": "json", "schema": {"type": "object"}}})
    result = call("validate", path)
    assert result.exit_code == 0
    first, schema, output = result.stdout.splitlines()
    assert first == f"{path}: OK for finetune run; kubectl apply refuses it:"
    assert 'spec.dataset.answerFormat.schema is {"type": "object"}: write the JSON Schema as JSON text' in schema
    assert ": file:// is for `finetune run` alone" in output
