"""Checkpoints in an output that others can write to: which one is taken up, and which ones go."""

from __future__ import annotations

import json

import pytest
from finetune_api.uris import parse_uri
from finetune_trainer.storage import BackgroundUploader, open_storage
from finetune_trainer.training.checkpoints import CheckpointStore, Identity

MINE = Identity("1" * 64, "2" * 64, "3" * 64, {"machine": "x"})


@pytest.fixture
def storage(tmp_path):
    return open_storage(parse_uri(f"file://{tmp_path}/out", ("file",)), None)


@pytest.fixture
def notes():
    return []


def store(storage, notes, attempt=1, prefix="team/job/uid"):
    return CheckpointStore(storage, prefix, attempt, BackgroundUploader(), notes.append)


def save(tmp_path, checkpoints, step, identity=MINE, seconds=1.0):
    """Write a checkpoint as the background thread does."""
    folder = tmp_path / "scratch" / str(step)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"weights of step {step}")
    with BackgroundUploader() as uploader:
        checkpoints._uploader = uploader
        checkpoints.save(folder, step, identity, seconds)
        uploader.drain()


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../weights", "sub/../../weights", ""])
def test_a_checkpoint_that_would_write_elsewhere_is_passed_over(storage, tmp_path, notes, path):
    checkpoints = store(storage, notes)
    save(tmp_path, checkpoints, 2)
    save(tmp_path, checkpoints, 4)
    manifest = tmp_path / "out/team/job/uid/checkpoints/1/step-00000004/checkpoint.json"
    content = json.loads(manifest.read_text())
    content["files"][0]["path"] = path
    manifest.write_text(json.dumps(content))
    found = checkpoints.newest(MINE, tmp_path / "resume")
    assert found.step == 2
    assert notes == ["the checkpoint team/job/uid/checkpoints/1/step-00000004 is passed over: its manifest can't be "
                     "read"]
