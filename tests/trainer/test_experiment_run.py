"""`finetune run experiment.yaml`: its loop on this machine, and one whole experiment on a tiny model."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from finetune_api.experiment.reading import parse_experiment
from finetune_api.experiment.status import FineTuneExperimentStatus
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.run.experiment.local import ExperimentOptions, run_experiment
from rich.console import Console

from tests.models import save_tiny_model, tiny_job, write_rows

SECONDS = 300

JOB = textwrap.dedent('''
    """Ends a job as its variant says, without a model: what `finetune run` would write of it."""
    import json, os, pathlib, signal, sys
    job, result = json.loads(sys.argv[1]), pathlib.Path(sys.argv[3])
    written = pathlib.Path(sys.argv[2]).read_text()
    name = next(line.split()[1] for line in written.splitlines() if line.strip().startswith("name:"))
    variant = name.split("-")[1]
    with open(job["log"], "a") as log:
        limit = [line.split()[1] for line in written.splitlines() if "maxCost" in line]
        log.write(f"{variant} {limit[0] if limit else ''}".strip() + "\\n")
    end = job["ends"].get(variant, {})
    if end.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    code = end.get("code", 0)
    scores = {"exactMatch": end["score"]} if "score" in end else {}
    outcome = {0: "Succeeded", 65: "BadData", 75: "Stopped"}[code]
    result.write_text(json.dumps({"exitCode": code, "result": {
        "outcome": end.get("outcome", outcome), "message": f"{variant} ended", "evaluation": {
            "before": {"exactMatch": 0.1}, "after": scores}, "memory": {"peakBytes": 2**30}},
        "figures": {"cost": str(end.get("cost", 1)), "resumedCost": str(end.get("resumed", 0)),
                    "currency": "EUR", "seconds": 3600.0, "tokensPerSecond": 50.0}}))
    sys.exit(code)
''')


@pytest.fixture
def place(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "model/model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def document(folder: Path, names: str, **sections: Any) -> dict[str, Any]:
    """An experiment on the tiny job, with a variant for each name."""
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneExperiment", "metadata": {"name": "compare"},
            "spec": {"template": {"spec": tiny_job(folder)["spec"]}, "rankBy": {"metric": "exactMatch"},
                     "variants": [{"name": name} for name in names.split()], **sections}}


def run_with(place: Path, names: str, ends: dict[str, dict[str, Any]], **sections: Any) -> tuple[int, str, list[str]]:
    """Run an experiment whose jobs end as `ends` says: the exit code, what was printed, and the jobs in order."""
    log = place / "log.txt"
    log.unlink(missing_ok=True)
    told = json.dumps({"log": str(log), "ends": ends})
    shown = Console(record=True, width=200, file=io.StringIO())
    code = run_experiment(parse_experiment(document(place, names, **sections)), shown, ExperimentOptions(
        lambda job, result: [sys.executable, str(place / "job.py"), told, str(job), str(result)]))
    return code, shown.export_text(), log.read_text().splitlines() if log.exists() else []


def status(place: Path) -> FineTuneExperimentStatus:
    content = json.loads((place / "out/default/compare/experiment.json").read_text())
    assert content["kind"] == "FineTuneExperiment"
    return FineTuneExperimentStatus.model_validate_json(json.dumps(content["status"]))


def test_a_failed_variant_does_not_end_the_others_and_decides_the_exit_code(place):
    code, output, jobs = run_with(place, "a bad b killed", {
        "a": {"score": 0.5}, "b": {"score": 0.9, "cost": 2}, "bad": {"code": 65}, "killed": {"kill": True}})
    assert (code, jobs) == (65, ["a", "bad", "b", "killed"])
    found = status(place)
    assert [(run.variant, run.phase, run.reason) for run in found.runs] == [
        ("a", "Succeeded", "Succeeded"), ("bad", "Failed", "BadData"), ("b", "Succeeded", "Succeeded"),
        ("killed", "Failed", "InternalError")]
    assert "out of memory" in found.runs[3].message
    assert [(one.variant, one.score) for one in found.ranking] == [("b", 0.9), ("a", 0.5)]
    assert (found.winner, found.phase) == (None, "Succeeded"), "nobody knows the scores of single rows"
    assert found.conclusion.startswith("No clear winner: b has the best exactMatch (0.9)")
    assert found.cost.spent == 4
    assert found.cost.currency == "EUR"
    assert {condition.type for condition in found.conditions if condition.status == "True"} == {
        "Validated", "Finished", "Succeeded"}
    row = found.runs[0]
    assert (row.before, row.after, row.hours, row.tokens_per_second, row.peak_bytes) == (0.1, 0.5, 1.0, 50.0, 2**30)
    assert found.conclusion in " ".join(output.split())
    assert "bad (compare-bad" in output


def test_a_stopped_job_stops_the_experiment_and_the_next_run_goes_on(place):
    code, _, jobs = run_with(place, "a b c", {"a": {"score": 0.5}, "b": {"code": 75}})
    assert (code, jobs) == (75, ["a", "b"])
    found = status(place)
    assert [run.phase for run in found.runs] == ["Succeeded", "Pending", "Pending"]
    assert (found.phase, found.completion_time, found.ranking, found.winner) == ("Running", None, (), None)
    started = found.start_time
    code, _, jobs = run_with(place, "a b c", {name: {"score": 0.5} for name in "abc"})
    assert (code, jobs) == (0, ["a", "b", "c"]), "each asks its own output whether it is published"
    assert status(place).start_time == started


def test_money_is_shared_and_what_cannot_be_paid_is_not_started(place):
    code, output, jobs = run_with(place, "a b c", {"a": {"score": 0.5, "cost": 2}, "b": {"score": 0.4, "cost": 7}},
                                  budget={"maxCost": 9})
    assert (code, [job.split()[0] for job in jobs]) == (0, ["a", "b"])
    assert [float(job.split()[1].strip("'")) for job in jobs] == [3, 3.5]
    (skipped,) = [run for run in status(place).runs if run.phase == "Skipped"]
    assert (skipped.variant, skipped.reason) == ("c", "BudgetSpent")
    assert "Raise spec.budget.maxCost" in " ".join(output.split())


def test_money_of_failed_tries_stays_spent(place):
    run_with(place, "a b", {"a": {"code": 65, "cost": 5}, "b": {"score": 0.5, "cost": 1}})
    code, _, jobs = run_with(place, "a b", {"a": {"score": 0.4, "cost": 1}, "b": {"score": 0.5, "cost": 1}},
                             budget={"maxCost": 9})
    assert (code, jobs[0]) == (0, "a '2.0000'"), "half of what 5 leave of 9"
    cost = status(place).cost
    assert [cost.removed, cost.spent] == [5, 7]


def test_what_a_stopped_job_did_after_its_last_checkpoint_stays_spent(place):
    run_with(place, "a b", {"a": {"score": 0.5, "cost": 1}, "b": {"code": 75, "cost": 5}})
    assert status(place).cost.spent == 6
    resumed = {"score": 0.4, "cost": 6, "resumed": 4}
    code, _, jobs = run_with(place, "a b", {"a": {"score": 0.5, "cost": 1}, "b": resumed}, budget={"maxCost": 9})
    assert (code, jobs[1]) == (0, "b '8.0000'"), "its own limit counts what it takes up to its checkpoint again"
    cost = status(place).cost
    assert [cost.removed, cost.spent] == [1, 8]


def test_a_failed_job_that_resumes_from_its_checkpoint_is_not_paid_twice_up_to_there(place):
    run_with(place, "a b", {"a": {"code": 65, "cost": 5}, "b": {"score": 0.5}})
    assert run_with(place, "a b", {"a": {"code": 65, "cost": 7, "resumed": 4}, "b": {"score": 0.5}})[0] == 65
    cost = status(place).cost
    assert [cost.removed, cost.spent] == [1, 9], "1 after the checkpoint was lost; 7 hold the 4 before it; b cost 1"
    assert run_with(place, "a b", {"a": {"score": 0.4, "cost": 8, "resumed": 7}, "b": {"score": 0.5}})[0] == 0
    cost = status(place).cost
    assert [cost.removed, cost.spent] == [1, 10]


def test_only_the_better_half_of_a_rung_is_trained_to_its_end(place):
    code, output, jobs = run_with(place, "a b c d", {name: {"score": score} for name, score in
                                                     zip("abcd", (0.1, 0.9, 0.8, 0.2), strict=True)},
                                  earlyStop={"rungs": [0.5]})
    assert (code, jobs) == (0, ["a", "b", "c", "d", "b", "c"])
    found = status(place)
    assert [run.variant for run in found.runs if run.phase == "Skipped"] == ["a", "d"]
    assert {one.variant: one.cost for one in found.ranking} == {"b": 2, "c": 2}
    assert found.cost.saved == 2, "half a run cost 1, and the other half is not trained"
    assert "early stop saved about 2.0000 EUR" in output


def test_an_edit_of_keep_gives_up_no_result_that_is_published(place):
    ends = {name: {"score": score} for name, score in zip("abc", (0.1, 0.9, 0.8), strict=True)}
    run_with(place, "a b c", ends, earlyStop={"rungs": [0.5], "keep": 0.6})
    before = status(place)
    assert [before.cost.spent, before.cost.saved] == [5, 1]
    for run in before.runs[-2:]:
        (place / "out/default" / run.job / "uid").mkdir(parents=True)
        (place / "out/default" / run.job / "uid/manifest.json").write_text("{}")
    _, _, jobs = run_with(place, "a b c", ends, earlyStop={"rungs": [0.5], "keep": 0.3})
    assert jobs == ["a", "b", "c", "b", "c"], "each asks its own output whether it is published"
    again = status(place)
    assert [one.variant for one in again.ranking] == ["b", "c"]
    assert [again.cost.spent, again.cost.saved] == [5, 1]
    (place / "out/default" / before.runs[-1].job / "uid/manifest.json").unlink()
    _, _, jobs = run_with(place, "a b c", ends, earlyStop={"rungs": [0.5], "keep": 0.3})
    assert jobs == ["a", "b", "c", "b"], "its output was cleaned, and it would be trained again"


def test_a_variant_that_its_budget_has_stopped_is_ranked_and_named(place):
    code, output, _ = run_with(place, "a b", {"a": {"score": 0.5, "outcome": "StoppedEarly"}, "b": {"score": 0.4}})
    assert code == 0
    assert [one.variant for one in status(place).ranking] == ["a", "b"]
    assert "Not all steps were trained of a (StoppedEarly)" in " ".join(output.split())


def test_a_missed_quality_gate_is_a_failure_and_is_not_ranked(place):
    code, _, _ = run_with(place, "a b", {"a": {"score": 0.9, "outcome": "QualityGate"}, "b": {"score": 0.5}})
    found = status(place)
    assert (code, found.winner) == (0, "b")
    assert [(run.phase, run.reason) for run in found.runs] == [("Failed", "QualityGate"), ("Succeeded", "Succeeded")]


def test_an_experiment_of_which_nothing_succeeded_has_failed(place):
    assert run_with(place, "a b", {"a": {"code": 65}, "b": {"code": 65}})[0] == 65
    assert (status(place).phase, status(place).conclusion) == ("Failed", "No variant has a result.")


def test_a_request_to_stop_before_the_first_job_starts_none(place, monkeypatch):
    monkeypatch.setattr(StopFlag, "listen", lambda self: self.set("SIGTERM"))
    code, _, jobs = run_with(place, "a b", {})
    assert (code, jobs) == (75, [])


@pytest.mark.slow
def test_a_whole_experiment_is_run_ranked_and_adopted_when_it_is_run_again(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    experiment = document(tmp_path, "lora", rankBy={"metric": "loss"})
    experiment["spec"]["variants"] += [
        {"name": "ia3", "patch": {"method": {"type": "Additive", "additive": {"technique": "IA3"}}}}]
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))

    def finetune() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "finetune_cli", "run", str(path)], capture_output=True, text=True,
                              timeout=SECONDS, check=False, env={**os.environ, "COLUMNS": "200"})

    first = finetune()
    assert first.returncode == 0, first.stdout + first.stderr
    found = status(tmp_path)
    assert [(run.variant, run.phase) for run in found.runs] == [("lora", "Succeeded"), ("ia3", "Succeeded")]
    best, other = found.ranking
    assert best.low < best.score < best.high
    assert best.rows == other.rows == 8
    assert other.verdict.startswith(("worse than ", "not clearly different from "))
    assert all(run.after < run.before for run in found.runs)
    assert all(Path(run.adapter.removeprefix("file://")).is_dir() for run in found.runs)
    assert "compare: ranked by loss" in first.stdout
    second = finetune()
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("Nothing was trained: the same job is published already.") == 2
    again = status(tmp_path)
    assert [one.model_dump() for one in again.ranking] == [one.model_dump() for one in found.ranking]
    assert [run.hours for run in again.runs] == [run.hours for run in found.runs], "what was paid once"


@pytest.mark.slow
def test_what_survives_a_rung_goes_on_from_there_and_no_step_is_trained_twice(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    experiment = document(tmp_path, "slow lora", rankBy={"metric": "loss"}, earlyStop={"rungs": [0.34]})
    experiment["spec"]["variants"][0]["patch"] = {"training": {"learningRate": 0.0001}}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    command = [sys.executable, "-m", "finetune_cli", "run", str(path)]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = status(tmp_path)
    assert [(run.variant, run.rung, run.phase, run.reason) for run in found.runs] == [
        ("slow", 0.34, "Succeeded", "StoppedEarly"), ("lora", 0.34, "Succeeded", "StoppedEarly"),
        ("slow", None, "Skipped", "Halved"), ("lora", None, "Succeeded", "Succeeded")]
    assert found.runs[2].message == "its variant was not among the best 50% by loss after 0.34 of the steps"
    folder = tmp_path / "out/default" / found.runs[3].job
    (result,) = (json.loads(one.read_text())["result"] for one in folder.glob("*/manifest.json"))
    assert (result["resumedFromStep"], result["step"], result["totalSteps"]) == (2, 6, 6)
    again = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("Nothing was trained: the same job is published already.") == 3
