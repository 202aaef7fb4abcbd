"""What a GPU needs beside itself; there is none here."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from finetune_api.spec.training import Precision
from finetune_trainer.errors import BadConfig
from finetune_trainer.hardware import device


def test_a_gpu_without_a_compiler_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(device.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})  # type: ignore[attr-defined]
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadConfig, match="needs a C compiler and Python's headers; install them"):
        device._require_compiler()
    (tmp_path / "gcc").touch(0o755)
    device._require_compiler()
    (tmp_path / "Python.h").unlink()
    with pytest.raises(BadConfig, match="python3-dev"):
        device._require_compiler()


def test_a_run_that_goes_on_with_another_trainer_is_not_said_to_be_the_same():
    here = device.environment(device.choose_device(Precision.AUTO, wants_gpu=False))
    assert here["finetune-trainer"] == version("finetune-trainer")
