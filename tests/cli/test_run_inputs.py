"""`finetune run` before it loads torch: a published result, wrong inputs, and what follows a stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from finetune_api import ExitCode, load_job
from finetune_cli.job_file import with_absolute_locations
from finetune_trainer.model.files.content import folder_digest
from finetune_trainer.report.run_end import RunEnd
from finetune_trainer.run.local_identity import run_config_without_accelerator

from tests.cli.inputs import ticket_job, write_model_folder, write_tickets
from tests.cli.jobs import call, write_job
from tests.trainer.manifests import publish


@pytest.fixture
def job(tmp_path):
    """Writes a job on a model's folder and forty tickets, with merge patches on its sections."""
    write_model_folder(tmp_path / "model")
    write_tickets(tmp_path / "tickets.csv")
    return lambda **sections: write_job(tmp_path / "job.yaml", **ticket_job(**sections))


def _run(path: Path, *options: str) -> tuple[int, str, list[str]]:
    """Run a job in a process of its own: the exit code, what it printed, and which heavy modules it imported."""
    program = ("import sys; from click.testing import CliRunner; from finetune_cli.main import finetune\n"
               f"result = CliRunner().invoke(finetune, ['run', {str(path)!r}, *{options!r}])\n"
               "heavy = [name for name in ('torch', 'transformers', 'datasets') if name in sys.modules]\n"
               "print(result.exit_code, *heavy, sep=','); print(result.output, end='')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    first, _, output = done.stdout.partition("\n")
    code, *heavy = first.split(",")
    return int(code), output, heavy


@pytest.mark.parametrize(("sections", "code", "message"), [
    ({"dataset": {"prompt": "{{ txt }}"}}, 64,
     "BadConfig: spec.dataset.prompt: no row has a column txt; the columns are team, text\n"),
    ({"model": {"source": "file://./nowhere"}}, 66, "MissingInput: spec.model.source: "),
    ({"dataset": {"completion": '{"team": "nobody"}'}}, 65,
     "BadData: spec.dataset: 40 rows can't be used: train row 1: the answer breaks the schema at $.team: "),
], ids=["column", "model", "schema"])
def test_wrong_inputs_are_reported_before_torch_is_loaded(job, tmp_path, sections, code, message):
    got, output, heavy = _run(job(**sections))
    assert (got, heavy) == (code, [])
    assert message in output, output
    assert "loading" not in output
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_several_wrong_inputs_are_all_reported(job):
    code, output, _ = _run(job(model={"source": "file://./nowhere"}, dataset={"prompt": "{{ txt }}"}))
    assert code == 64
    assert [line.partition(": ")[0] for line in output.splitlines()] == ["MissingInput", "BadConfig"]


def test_a_published_job_answers_without_torch_and_says_that_nothing_was_trained(job, tmp_path):
    path = job()
    located = with_absolute_locations(load_job(path), path.parent)
    config = run_config_without_accelerator(located, False, lambda note: None)
    publish(config, tmp_path / "out", uid=config.uid, base_revision=folder_digest(tmp_path / "model"))
    code, output, heavy = _run(path)
    assert (code, heavy) == (0, [])
    assert "AlreadyPublished: " in output
    assert "Nothing was trained: the same job is published already. To train it again, run finetune run" in output
    assert "--rerun" in output


def test_a_stopped_run_prints_the_command_that_goes_on(job, monkeypatch):
    monkeypatch.setattr("finetune_trainer.run.local.run_job", lambda job, console, options: 75)
    path = job()
    result = call("run", path, "--rerun", "--port", "0", "--allow-plugin", "by length")
    assert (result.exit_code, result.stdout) == (
        75, f"To go on: finetune run --rerun --port 0 --allow-plugin 'by length' {path}\n")
    assert call("run", path).stdout == f"To go on: finetune run {path}\n"
    assert call("run", path, "--result", path.parent / "end.json").stdout == ""


@pytest.mark.parametrize(("budget", "warned"), [
    ({"maxCost": 5}, True), ({"maxCost": 5, "hourlyRate": "0.10"}, False), ({}, False),
])
def test_on_a_cpu_a_budget_without_an_hourly_rate_is_said_to_have_no_effect(job, monkeypatch, budget, warned):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("finetune_trainer.run.local.run", lambda config, *rest: RunEnd(ExitCode.OK, None))
    result = call("run", job(budget=budget))
    assert result.exit_code == 0
    words = ("warning: spec.budget.maxCost: 5 has no effect: this machine has no GPU, and a CPU costs nothing unless "
             "spec.budget.hourlyRate is set")
    assert (words in " ".join(result.stdout.split())) is warned, result.stdout
