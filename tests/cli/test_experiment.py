"""`finetune validate`, `estimate`, `explain` and `run` with a FineTuneExperiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from finetune_api.rules import merge_patch

from tests.api.experiments import SMALLEST_EXPERIMENT, experiment_document
from tests.cli.inputs import ticket_job, write_model_folder, write_tickets
from tests.cli.jobs import call
from tests.cli.test_estimate import MISTRAL

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"

TWO: dict[str, Any] = {"variants": [{"name": "lora"}, {"name": "dora", "patch": {"method": {"type": "DoRA"}}}]}


def write(path: Path, **sections: Any) -> Path:
    path.write_text(yaml.safe_dump(experiment_document(**sections), sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def tickets(tmp_path):
    write_model_folder(tmp_path / "model")
    write_tickets(tmp_path / "tickets.csv")
    return {"template": {"spec": ticket_job()}, "variants": [*TWO["variants"]]}


def test_validate_lists_the_jobs_of_an_experiment(tmp_path):
    path = write(tmp_path / "experiment.yaml", **TWO, repeats=2, earlyStop={"rungs": [0.5]})
    result = call("validate", path)
    assert (result.exit_code, result.stderr) == (0, "")
    first, *jobs = result.stdout.splitlines()
    assert first == f"{path}: OK, 6 jobs:"
    assert [line.split("(")[-1].rstrip(")") if "(" in line else "" for line in jobs] == [
        "0.5 of the steps", "0.5 of the steps", "from 0.5 of the steps to the end", "seed 43",
        "from 0.5 of the steps to the end", "seed 43"]


def test_validate_names_the_variant_that_is_wrong(tmp_path):
    path = write(tmp_path / "experiment.yaml", variants=[{"name": "bad", "patch": {"method": {"type": "QLoRA"}}}])
    result = call("validate", path)
    assert (result.exit_code, result.stdout) == (64, "")
    assert 'variant bad: spec.method.type is "QLoRA": write type: LoRA with quantization: nf4' in result.stderr


def test_validate_looks_at_the_rows_of_every_variant(tmp_path, tickets):
    path = write(tmp_path / "experiment.yaml", **tickets)
    assert call("validate", "--data", path).exit_code == 0
    tickets["variants"].append({"name": "other", "patch": {"dataset": {"prompt": "{{ txt }}"}}})
    result = call("validate", "--data", write(path, **tickets))
    assert result.exit_code == 64
    assert "variant other: spec.dataset.prompt" in result.stderr


def test_run_checks_every_variant_before_the_first_one_starts(tmp_path, tickets, monkeypatch):
    monkeypatch.setattr("finetune_trainer.run.experiment.local.run_in_process", lambda *_: pytest.fail("it started"))
    tickets["variants"].append({"name": "other", "patch": {"model": {"source": "file://./none"}}})
    result = call("run", write(tmp_path / "experiment.yaml", **tickets))
    assert result.exit_code == 66
    assert "variant other: MissingInput: spec.model.source" in " ".join(result.stdout.split())
    assert not (tmp_path / "out").exists()


def test_run_refuses_a_suspended_experiment_and_a_result_file(tmp_path, tickets):
    suspended = write(tmp_path / "experiment.yaml", **tickets, suspend=True)
    result = call("run", suspended)
    assert (result.exit_code, "spec.suspend is true" in result.stdout) == (64, True)
    result = call("run", suspended, "--result", tmp_path / "end.json")
    assert (result.exit_code, "writes experiment.json" in result.stderr) == (64, True)


def test_a_file_with_a_job_and_no_experiment_is_still_a_job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("kind: Other\n")
    assert "kind" in call("validate", path).stderr
    both = yaml.safe_dump_all([{"kind": "ConfigMap"}, experiment_document(**TWO)])
    path.write_text(both)
    assert call("validate", path).exit_code == 0


def test_estimate_has_a_row_for_each_job_and_the_sum(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 300}))
    path = write(tmp_path / "experiment.yaml", **merge_patch(SMALLEST_EXPERIMENT, {
        "template": {"spec": {"model": {"source": "file://./model"}}}, "budget": {"maxCost": "0.01"}, **TWO}))
    shown = call("estimate", path, "--accelerator", "l4", "--rows", "20000000")
    assert shown.exit_code == 0, shown.stderr
    assert [line.split()[:2] for line in shown.stdout.splitlines()[:3]] == [
        ["variant", "method"], ["lora", "LoRA"], ["dora", "DoRA"]]
    assert "All 2 jobs on nvidia-l4: at most " in shown.stdout
    assert "spec.budget.maxCost is 0.01, below this estimate" in shown.stdout
    found = json.loads(call("estimate", path, "--accelerator", "l4", "--rows", "20000000", "--json").stdout)
    assert [job["variant"] for job in found["jobs"]] == ["lora", "dora"]
    assert found["hours"] == pytest.approx(sum(job["hours"] for job in found["jobs"]), abs=0.01)
    assert found["fits"]


def test_the_estimate_of_long_names_sweeps_and_rungs_is_whole_in_eighty_columns(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    path = write(tmp_path / "experiment.yaml", **merge_patch(SMALLEST_EXPERIMENT, {
        "template": {"spec": {"model": {"source": "file://./"}}}, "repeats": 2, "earlyStop": {"rungs": [0.25]},
        "variants": [{"name": "low-rank-of-4-bit-ab", "patch": {"method": {"quantization": "nf4"}}},
                     {"name": "whole", "patch": {"method": {"type": "Full"}}}],
        "sweep": {"grid": {"training.learningRate": [0.0001, 0.0002]}}}))
    shown = call("estimate", path, "--accelerator", "l4", "--rows", "2000000")
    assert shown.exit_code == 71
    title, *lines = shown.stdout.splitlines()
    jobs = lines[:12]
    assert title.split() == ["variant", "method", "steps", "seed", "GiB", "fits", "hours", "cost"]
    assert max(map(len, (title, *jobs))) <= 80
    assert all(len(job.split()) == 9 for job in jobs), "none is cut or on two lines"
    point = next(job for job in jobs if job.startswith("whole-")).split()[0]
    assert [job.split()[2:5] for job in jobs if job.startswith(point)] == [
        ["25", "%", "42"], ["75", "%", "42"], ["100", "%", "43"]]
    told = [line.split(" ")[0] for line in lines if " is training.learningRate=" in line]
    assert len(told) == len(set(told)) == 4, "each point of the sweep once"
    assert all(any(job.startswith(f"{name} ") for job in jobs) for name in told)
    assert len([line for line in lines if " does not fit: " in line]) == 2


def test_the_estimates_of_rung_and_rest_are_together_that_of_the_whole_run(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 300}))

    def estimated(**sections):
        path = write(tmp_path / "experiment.yaml", **merge_patch(SMALLEST_EXPERIMENT, {
            "template": {"spec": {"model": {"source": "file://./model"}}}, "variants": [{"name": "one"}], **sections}))
        shown = call("estimate", path, "--accelerator", "l4", "--rows", "200000000", "--json")
        assert shown.exit_code == 0, shown.stderr
        return [job["hours"] for job in json.loads(shown.stdout)["jobs"]]

    (whole,) = estimated()
    first, second, rest = estimated(earlyStop={"rungs": [0.25, 0.5]})
    assert whole > 0.1
    assert [first / whole, second / whole, rest / whole] == pytest.approx([0.25, 0.25, 0.5], abs=0.01)


def test_the_sample_with_mistral_fits_on_its_accelerator_and_its_budget_pays_it(tmp_path):
    sample = yaml.safe_load((SAMPLES / "experiment-mistral.yaml").read_text())
    assert sample["spec"]["template"]["spec"]["model"]["source"] == "mistralai/Mistral-7B-Instruct-v0.2"
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    sample["spec"]["template"]["spec"]["model"]["source"] = "file://./"
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(sample))
    assert call("validate", path).exit_code == 0
    shown = call("estimate", "--accelerator", "nvidia-l4", "--rows", "8400", "--row-tokens", "1200", path)
    assert shown.exit_code == 0, shown.output
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:4]] == [
        ["qlora", "QLoRA"], ["qdora", "QDoRA"], ["unsloth", "QLoRA"]]
    assert "All 3 jobs on nvidia-l4: at most " in shown.stdout
    assert "below this estimate" not in shown.stdout


def test_explain_knows_the_fields_of_an_experiment():
    def words(field):
        result = call("explain", field)
        assert (result.exit_code, result.stderr) == (0, "")
        return " ".join(result.stdout.split())

    assert words("fte.parallelism") == words("FineTuneExperiment.spec.parallelism")
    assert words("fte.parallelism").startswith("spec.parallelism integer Most jobs at the same time.")
    assert words("fte").startswith("FineTuneExperiment object Runs variants of a FineTuneJob")
    assert "Rank of the two factors" in words("fte.template.spec.method.lora.rank")
    wrong = call("explain", "fte.paralelism")
    assert (wrong.exit_code, "did you mean spec.parallelism?" in wrong.stderr) == (64, True)


def test_an_estimate_says_that_it_leaves_out_what_a_method_samples(tmp_path, tickets):
    (tmp_path / "model/config.json").write_text(json.dumps(MISTRAL))
    tickets["variants"].append({"name": "reft", "patch": {"method": {"type": "ReFT"}}})
    shown = call("estimate", write(tmp_path / "experiment.yaml", **tickets), "--accelerator", "l4", "--rows", "100")
    assert shown.exit_code == 0, shown.stderr
    last = shown.stdout.splitlines()[-1]
    assert "at most" not in last
    assert last.endswith("without the responses that the method samples, loading, evaluation and upload")
