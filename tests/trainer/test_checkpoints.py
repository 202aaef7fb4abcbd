"""Checkpoints in an output that others can write to: which one is taken up, and which ones go."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.messages import Accelerator, RunConfig
from finetune_api.values.uris import parse_uri
from finetune_trainer.errors import MissingInput
from finetune_trainer.storage import BackgroundUploader, open_storage
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete_checkpoints import (
    Identity,
    ResumeSource,
    chat_template_date,
    require_earlier,
    resume_source,
)

from tests.models import tiny_job

MINE = Identity("1" * 64, "2" * 64, "3" * 64, {"machine": "x"})
TODAY = date(2026, 3, 15)


@pytest.fixture
def storage(tmp_path):
    return open_storage(parse_uri(f"file://{tmp_path}/out", ("file",)), None)


@pytest.fixture
def notes():
    return []


def store(storage, notes, attempt=1, prefix="team/job/uid", **source):
    return CheckpointStore(storage, prefix, attempt, BackgroundUploader(), notes.append, ResumeSource(**source))


def save(tmp_path, checkpoints, *steps, identity=MINE, seconds=1.0):
    """Write checkpoints as the background thread does."""
    for step in steps:
        folder = tmp_path / "scratch" / str(step)
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"weights of step {step}")
        with BackgroundUploader() as uploader:
            checkpoints._uploader = uploader
            checkpoints.save(folder, step, identity, seconds)
            uploader.drain()


def kept(storage):
    """Attempt and step of what is in the output."""
    parts = [key.split("/") for key in storage.keys("") if key.endswith("checkpoint.json")]
    return sorted((int(part[-3]), int(part[-2].removeprefix("step-"))) for part in parts)


def job(tmp_path, **run_policy):
    """A job's configuration; its spec is that of the checkpoints here."""
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, runPolicy=run_policy)).spec)
    return RunConfig(namespace="team", name="again", uid="uid2", attempt=1, spec=spec, spec_hash=MINE.spec_hash,
                     accelerator=Accelerator(name="cpu", hourly_rate=Decimal("0")))


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../weights", "sub/../../weights", ""])
def test_a_checkpoint_that_would_write_elsewhere_is_passed_over(storage, tmp_path, notes, path):
    checkpoints = store(storage, notes)
    save(tmp_path, checkpoints, 2, 4)
    manifest = tmp_path / "out/team/job/uid/checkpoints/1/step-00000004/checkpoint.json"
    content = json.loads(manifest.read_text())
    content["files"][0]["path"] = path
    manifest.write_text(json.dumps(content))
    found = checkpoints.newest(MINE, tmp_path / "resume")
    assert found.step == 2
    assert notes == ["the checkpoint team/job/uid/checkpoints/1/step-00000004 is not used: its manifest can't be "
                     "read"]


@pytest.mark.parametrize("other", [replace(MINE, data_hash="9" * 64), replace(MINE, base_hash="9" * 64),
                                   replace(MINE, spec_hash="9" * 64)], ids=["data", "base", "spec"])
def test_an_attempt_removes_none_but_its_own_kind_of_checkpoint(storage, tmp_path, notes, other):
    save(tmp_path, store(storage, notes), 90, 100, identity=other)
    second = store(storage, notes, 2)
    assert second.newest(MINE, tmp_path / "resume") is None
    save(tmp_path, second, 10, 20, 30)
    assert kept(storage) == [(1, 90), (1, 100), (2, 20), (2, 30)]
    assert store(storage, notes, 3).newest(MINE, tmp_path / "resume").step == 30
    assert store(storage, notes, 3).newest(other, tmp_path / "resume").step == 100


def test_damaged_checkpoints_do_not_push_out_new_ones(storage, tmp_path, notes):
    save(tmp_path, store(storage, notes), 90, 100)
    for path in (tmp_path / "out").rglob("weights"):
        path.write_text("broken")
    second = store(storage, notes, 2)
    assert second.newest(MINE, tmp_path / "resume") is None
    assert sum("weights is damaged" in note for note in notes) == 2
    save(tmp_path, second, 10, 20, 30)
    assert (2, 20) in kept(storage) and (2, 30) in kept(storage) and (2, 10) not in kept(storage)


def test_on_another_machine_a_run_goes_on_and_prunes_as_before(storage, tmp_path, notes):
    save(tmp_path, store(storage, notes), 10, 20)
    moved = replace(MINE, environment={"machine": "y"})
    second = store(storage, notes, 2)
    assert second.newest(moved, tmp_path / "resume").step == 20
    save(tmp_path, second, 30, 40, identity=moved)
    assert kept(storage) == [(2, 30), (2, 40)]


@pytest.mark.parametrize("name", ["x/step-00000009", "\u0663/step-00000009", "1/step-x", "1/step-00000009/deeper", "1"])
def test_what_is_named_like_no_checkpoint_is_none(storage, tmp_path, notes, name):
    storage.put_bytes(f"team/job/uid/checkpoints/{name}/checkpoint.json", b"{}")
    storage.put_bytes("team/job/uid/checkpoints/2/step-00000009/checkpoint.json", b"{")
    checkpoints = store(storage, notes)
    save(tmp_path, checkpoints, 2)
    content = (tmp_path / "out/team/job/uid/checkpoints/1/step-00000002/checkpoint.json").read_bytes()
    storage.put_bytes("team/job/uid/checkpoints/3/step-00000011/checkpoint.json", content)
    assert checkpoints.newest(MINE, tmp_path / "resume").step == 2
    assert [note.rpartition(": ")[2] for note in notes] == ["its manifest names another step",
                                                            "its manifest can't be read"]


def test_an_earlier_jobs_checkpoints_are_taken_up_free_of_its_costs_and_never_touched(storage, tmp_path, notes):
    save(tmp_path, store(storage, notes, prefix="team/job/uid"), 40, 50, seconds=1000.0)
    save(tmp_path, store(storage, notes, prefix="team/job/other"), 30, identity=replace(MINE, data_hash="9" * 64))
    save(tmp_path, store(storage, notes, prefix="others/job/uid"), 60)
    again = store(storage, notes, prefix="team/again/uid2", earlier="team/job/")
    found = again.newest(MINE, tmp_path / "resume")
    assert (found.step, found.trained_seconds) == (50, 0.0)
    assert (tmp_path / "resume/weights").read_text() == "weights of step 50"
    save(tmp_path, again, 52, 54, 56, seconds=7.0)
    assert [step for _, step in kept(storage)] == [30, 40, 50, 54, 56, 60]
    found = store(storage, notes, 2, "team/again/uid2", earlier="team/job/").newest(MINE, tmp_path / "resume")
    assert (found.step, found.trained_seconds) == (56, 7.0)


def test_a_job_that_names_an_earlier_one_does_not_train_anew_where_nothing_fits(storage, tmp_path, notes):
    assert require_earlier(storage, job(tmp_path), MINE.data_hash) is None
    named = job(tmp_path, resumeFrom="job")
    with pytest.raises(MissingInput, match=r"no checkpoint of the job job fits \(this output has no checkpoint"):
        require_earlier(storage, named, MINE.data_hash)
    save(tmp_path, store(storage, notes), 40, identity=replace(MINE, data_hash="9" * 64))
    with pytest.raises(MissingInput, match=r"step-00000040: it was written for other data"):
        require_earlier(storage, named, MINE.data_hash)
    save(tmp_path, store(storage, notes, prefix="team/job/second"), 20)
    assert require_earlier(storage, named, MINE.data_hash).step == 20
    assert require_earlier(storage, job(tmp_path, resumeFrom="job/second"), MINE.data_hash, MINE.base_hash).step == 20
    with pytest.raises(MissingInput, match="other base weights"):
        require_earlier(storage, named, MINE.data_hash, "9" * 64)
    with pytest.raises(MissingInput):
        require_earlier(storage, job(tmp_path, resumeFrom="job/uid"), MINE.data_hash)


def test_a_job_that_may_train_from_the_start_is_told_why_nothing_fits(storage, tmp_path, notes):
    named = job(tmp_path, resumeFrom="again/gone", onMissingCheckpoint="TrainFromStart")
    assert require_earlier(storage, named, MINE.data_hash) == (
        "no checkpoint of the job again/gone fits (this output has no checkpoint of that job)")
    save(tmp_path, store(storage, notes, prefix="team/again/gone"), 40, identity=replace(MINE, base_hash="9" * 64))
    assert "other base weights" in str(require_earlier(storage, named, MINE.data_hash, MINE.base_hash))
    save(tmp_path, store(storage, notes, prefix="team/again/gone"), 20)
    assert require_earlier(storage, named, MINE.data_hash, MINE.base_hash).step == 20


@pytest.mark.parametrize(("policy", "refused"), [("Fail", True), ("TrainFromStart", False)])
def test_a_damaged_checkpoint_of_an_earlier_job_fails_the_job_or_is_said_in_its_result(storage, tmp_path, notes, policy,
                                                                                     refused):
    save(tmp_path, store(storage, notes), 40, 50)
    config = job(tmp_path, resumeFrom="job", onMissingCheckpoint=policy)
    (tmp_path / "out/team/job/uid/checkpoints/1/step-00000050/weights").write_text("other weights")
    again = store(storage, notes, prefix="team/again/uid2", **vars(resume_source(config)))
    assert again.newest(MINE, tmp_path / "resume").step == 40, "the one before it is whole"
    (tmp_path / "out/team/job/uid/checkpoints/1/step-00000040/weights").unlink()
    assert require_earlier(storage, config, MINE.data_hash).step == 50, "manifests alone do not show it"
    words = (r"no checkpoint of the job job fits \(team/job/uid/checkpoints/1/step-00000050: weights is damaged; "
             r"team/job/uid/checkpoints/1/step-00000040: weights is missing\)")
    if refused:
        with pytest.raises(MissingInput, match=words + ".*onMissingCheckpoint: TrainFromStart"):
            again.newest(MINE, tmp_path / "resume")
    else:
        assert again.newest(MINE, tmp_path / "resume") is None
        assert re.fullmatch(words, again.not_resumed)


def test_a_job_that_trains_no_step_after_an_earlier_one_has_its_checkpoint(storage, tmp_path, notes):
    save(tmp_path, store(storage, notes), 40, seconds=1000.0)
    second = store(storage, notes, prefix="team/second/uid2", earlier="team/job/")
    assert second.newest(MINE, tmp_path / "resume").step == 40
    with BackgroundUploader() as uploader:
        second._uploader = uploader
        second.take_over(tmp_path / "resume")
        uploader.drain()
    third = store(storage, notes, prefix="team/third/uid3", earlier="team/second/")
    found = third.newest(MINE, tmp_path / "third")
    assert (found.step, found.trained_seconds) == (40, 0.0)
    assert (tmp_path / "third/weights").read_text() == "weights of step 40"
    save(tmp_path, third, 41)
    with BackgroundUploader() as uploader:
        third._uploader = uploader
        third.take_over(tmp_path / "third")
        uploader.drain()
    assert [step for _, step in kept(storage)] == [40, 40, 41], "it has one of its own"


def test_the_date_of_a_job_is_that_of_the_checkpoint_it_goes_on_from_else_that_of_its_start(storage, tmp_path, notes):
    config = job(tmp_path, resumeFrom="job")
    assert chat_template_date(storage, config, TODAY) == TODAY
    start = config.model_copy(update={"date": date(2026, 3, 14)})
    assert chat_template_date(storage, start, TODAY) == date(2026, 3, 14)
    save(tmp_path, store(storage, notes, prefix="team/job/uid", date=date(2026, 3, 9)), 40)
    save(tmp_path, store(storage, notes, prefix="team/job/uid", date=date(2026, 3, 1)), 60,
         identity=replace(MINE, spec_hash="9" * 64))
    assert chat_template_date(storage, start, TODAY) == date(2026, 3, 9)
    assert chat_template_date(storage, job(tmp_path), TODAY) == TODAY
