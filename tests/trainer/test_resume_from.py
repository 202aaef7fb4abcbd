"""A job that goes on from an earlier one's checkpoint, on another day, with a template that writes the date."""

from __future__ import annotations

import json
import os
import signal
from datetime import date
from decimal import Decimal

import pytest
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Accelerator, Outcome, PreflightVerdict, Result, RunConfig
from finetune_api.spec.policy import RunPolicy
from finetune_trainer.model.files.content import folder_digest
from finetune_trainer.run.preflight import preflight

from tests.models import CHATML, save_tiny_model, tiny_job, write_rows
from tests.trainer.manifests import publish
from tests.trainer.runs import RunningPod

DATED = "<|im_start|>{{ strftime_now('%d %B %Y') }}<|im_end|>" + CHATML


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model whose template writes the date, and rows."""
    folder = tmp_path_factory.mktemp("dated")
    save_tiny_model(folder / "model", chat_template=DATED)
    write_rows(folder / "rows.jsonl")
    return folder


def config(folder, name, day, **run_policy):
    spec = resolve_defaults(parse_job(tiny_job(folder, runPolicy=run_policy, evaluation={"baseline": False})).spec)
    return RunConfig(namespace="team", name=name, uid=f"uid-of-{name}", attempt=1, spec=spec, spec_hash=spec_hash(spec),
                     date=date(2026, 3, day), accelerator=Accelerator(name="cpu", hourly_rate=Decimal("0")))


def start(folder, job, fault=""):
    """Run an attempt as a pod does: its end, and what it said."""
    place = folder / job.name
    place.mkdir()
    (place / "run.json").write_text(job.model_dump_json(exclude_none=True))
    said = place / "termination-log"
    said.write_text("")
    done = RunningPod(place / "log", ["run", "--config", str(place), "--port", "0", "--termination-log", str(said)],
                      {**os.environ, "FINETUNE_FAULT": fault, "HF_HUB_OFFLINE": "1"}).wait()
    return done, said.read_bytes()


def test_a_job_goes_on_from_an_earlier_one_another_day_and_keeps_its_date(folder):
    died, _ = start(folder, config(folder, "first", 14), "kill:checkpointed-4")
    assert died.code == -signal.SIGKILL, died.output
    again = config(folder, "again", 15, resumeFrom="first")
    checked = preflight(again, lambda note: None)
    assert checked.result.verdict is PreflightVerdict.PASSED, checked.result.message
    assert "resumes from step 4, from the checkpoint team/first/uid-of-first/checkpoints/1/step-" in \
        checked.result.message
    done, said = start(folder, again)
    assert done.code == 0, done.output
    assert "resuming from step 4 of 6" in done.output
    assert Result.model_validate_json(said).resumed_from_step == 4
    assert '"date": "2026-03-14"' in (folder / "out/team/again/uid-of-again/manifest.json").read_text()
    assert list((folder / "out/team/first").rglob("checkpoint.json")), "they are somebody else's"
    refused, said = start(folder, config(folder, "third", 15, resumeFrom="nobody"))
    assert refused.code == ExitCode.MISSING_INPUT, refused.output
    assert "no checkpoint of the job nobody fits" in Result.model_validate_json(said).message


def test_a_result_of_another_day_is_adopted_and_one_that_was_stopped_early_is_gone_on_with(folder, tmp_path):
    job = config(folder, "tiny", 15)
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"output": resolve_defaults(parse_job(tiny_job(
        folder, output={"uri": f"file://{tmp_path}"})).spec).output})})
    yesterday = preflight(job.model_copy(update={"date": date(2026, 3, 14)}), lambda note: None).result.data_hash
    today = preflight(job, lambda note: None).result
    assert (today.verdict, today.data_hash == yesterday) == (PreflightVerdict.PASSED, False)
    publish(job, tmp_path, data_hash=yesterday, base_revision=folder_digest(folder / "model"),
            run={"date": "2026-03-14"}, outcome=Outcome.STOPPED_EARLY)
    assert preflight(job, lambda note: None).result.reason is Outcome.STOPPED_EARLY
    going_on = job.model_copy(update={"spec": job.spec.model_copy(update={
        "run_policy": job.spec.run_policy.model_copy(update={"resume_from": "tiny"})})})
    assert "no checkpoint of the job tiny fits" in preflight(going_on, lambda note: None).result.message


@pytest.mark.parametrize(("step", "adopts"), [(24, False), (25, True)])
def test_a_part_is_adopted_if_it_was_trained_up_to_its_share(folder, tmp_path, step, adopts):
    job = config(folder, "part", 15, resumeFrom="before", stopAfter=0.25, onMissingCheckpoint="TrainFromStart")
    output = resolve_defaults(parse_job(tiny_job(folder, output={"uri": f"file://{tmp_path}"})).spec).output
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"output": output})})
    checked = preflight(job, lambda note: None).result
    assert checked.verdict is PreflightVerdict.PASSED
    assert ("no checkpoint of the job before fits (this output has no checkpoint of that job); if there is none when "
            "the job starts, it trains from the start") in checked.message
    home = publish(job, tmp_path, data_hash=checked.data_hash, base_revision=folder_digest(folder / "model"),
                   run={"date": "2026-03-15"}, outcome=Outcome.STOPPED_EARLY)
    content = json.loads((home / "manifest.json").read_text())
    content["result"] |= {"step": step, "totalSteps": 100}
    (home / "manifest.json").write_text(json.dumps(content))
    more = job.model_copy(update={"spec": job.spec.model_copy(update={"run_policy": RunPolicy(stop_after=0.5)})})
    notes: list[str] = []
    assert preflight(more, notes.append).result.reason is Outcome.STOPPED_EARLY, "a limit stopped it"
    content["run"]["spec"] = {"runPolicy": {"stopAfter": 0.25}}
    (home / "manifest.json").write_text(json.dumps(content))
    assert preflight(more, notes.append).result.verdict is PreflightVerdict.PASSED
    assert "it was trained for 0.25 of the steps" in notes[0]
    assert (preflight(job, lambda note: None).result.verdict is PreflightVerdict.ALREADY_PUBLISHED) is adopts
