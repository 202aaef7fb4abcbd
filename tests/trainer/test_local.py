"""The identity of a job without a cluster: which folder of its output is its own."""

from __future__ import annotations

import json

import pytest
from finetune_api import parse_job
from finetune_api.messages import Outcome
from finetune_api.spec.policy import RunPolicy
from finetune_trainer.model.files.content import description_digest, folder_digest
from finetune_trainer.run.local import run_config

from tests.models import tiny_job, write_rows
from tests.trainer.manifests import publish


@pytest.fixture
def job(tmp_path):
    """A job on a model whose weights are none; nothing here loads them."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    write_rows(tmp_path / "rows.jsonl")
    return parse_job(tiny_job(tmp_path))


def test_a_published_job_is_found_again_unless_its_base_was_replaced_or_its_result_is_gone(job, tmp_path):
    first = run_config(job)
    digest = folder_digest(tmp_path / "model")
    home = publish(first, tmp_path / "out", uid=first.uid, base_revision=digest)
    assert run_config(job).uid == first.uid
    again = run_config(job, rerun=True).uid
    assert again != first.uid
    notes = []
    (tmp_path / "model/model.safetensors").write_bytes(b"replaced")
    assert run_config(job, note=notes.append).uid == again
    assert len(notes) == 1 and "is not used: it belongs to another revision of the base model" in notes[0]
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    assert run_config(job).uid == first.uid
    (home / "results/1/adapter/adapter_model.safetensors").unlink()
    assert run_config(job, note=notes.append).uid == again
    assert "adapter_model.safetensors is missing" in notes[-1]


def test_a_published_job_whose_base_has_another_configuration_or_template_trains_anew(job, tmp_path):
    described = description_digest(job.spec.model, None)
    first = run_config(job)
    publish(first, tmp_path / "out", uid=first.uid, base_revision=folder_digest(tmp_path / "model"),
            base_description=described)
    (tmp_path / "model/notes.txt").write_text("what transformers does not read")
    assert run_config(job).uid == first.uid
    for name in ("config.json", "chat_template.jinja", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")
        notes = []
        assert run_config(job, note=notes.append).uid != first.uid
        assert "a base model with another configuration, tokenizer or chat template" in notes[0]
        (tmp_path / "model" / name).unlink()


def test_a_part_is_not_adopted_as_more_than_it_is(job, tmp_path):
    def named(**policy):
        return job.model_copy(update={"spec": job.spec.model_copy(update={"run_policy": RunPolicy(**policy)})})

    first = run_config(named(stop_after=0.25))
    home = publish(first, tmp_path / "out", uid=first.uid, base_revision=folder_digest(tmp_path / "model"),
                   outcome=Outcome.STOPPED_EARLY, run=json.loads(first.model_dump_json()))
    content = json.loads((home / "manifest.json").read_text())
    for step in (1, 25, 50):
        content["result"] |= {"step": step, "totalSteps": 100}
        (home / "manifest.json").write_text(json.dumps(content))
        assert run_config(named(stop_after=0.25)).uid == first.uid, "a limit stopped it, or its share"
        assert (run_config(named(stop_after=0.5)).uid == first.uid) is (step == 50)
        notes = []
        assert run_config(job, note=notes.append).uid != first.uid
        assert notes[0].endswith("is not used: it was trained for 0.25 of the steps (runPolicy.stopAfter); to train "
                                 "only the rest, set runPolicy.resumeFrom: tiny")
    content["run"]["spec"]["runPolicy"]["stopAfter"] = None
    (home / "manifest.json").write_text(json.dumps(content))
    assert run_config(job).uid == first.uid, "a limit stopped it, and would again"


def test_a_number_that_is_none_in_an_attempts_folder_is_no_attempt(job, tmp_path):
    config = run_config(job)
    for name in ("²", "3", "x"):
        folder = tmp_path / "out/default/tiny" / config.uid / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "file").write_text("")
    assert run_config(job).attempt == 4
