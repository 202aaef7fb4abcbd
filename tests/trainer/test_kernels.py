"""Liger's kernels, run by Triton's interpreter on a CPU, compute what torch does; who has no use for them gets none.

The interpreter has no bfloat16 and no libdevice, so the kernels are compared in float32, with a square root of Triton's
own. What compilers and GPUs make of them is not seen here; `apply_kernels` compares them there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from finetune_api.resolve import resolve_defaults
from finetune_trainer.engines import kernels
from finetune_trainer.engines.kernels import MODEL_TYPES, use_kernels
from finetune_trainer.hardware.device import Device

from tests.api.jobs import job

PROGRAM = "tests/trainer/interpreted_kernels.py"
CPU = Device(torch.device("cpu"), torch.float32)


class Gpu(Device):
    """A device that says that it is a GPU."""

    @property
    def is_gpu(self):
        return True


GPU = Gpu(torch.device("cpu"), torch.bfloat16)


@pytest.fixture(scope="module")
def compared():
    """What the program found, by case; it has a process of its own, since Triton reads its variable on import."""
    missing = [name for name in ("triton", "liger_kernel") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED: Liger's kernels; {', '.join(missing)} isn't installed")
    done = subprocess.run([sys.executable, PROGRAM, *sorted(MODEL_TYPES)], capture_output=True, text=True, timeout=560,
                          env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_loss_and_gradients_of_each_model_type_are_torch_s(compared, model_type):
    found = compared[model_type]
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-5
    assert found["norms"] >= 5
    assert found["mlps"] == 2
    assert found["rotated"] == 2


@pytest.mark.slow
def test_a_dora_adapter_gets_its_gradients_since_nothing_writes_over_its_outputs(compared):
    assert compared["dora"]["gradient"] < 1e-5
    assert (compared["dora"]["norms"], compared["dora"]["mlps"], compared["dora"]["rotated"]) == (5, 0, 0)
    assert compared["dora, all kernels"]["gradient"] > 1e-2, "this test can't fail"


@pytest.mark.slow
def test_other_models_of_the_process_keep_transformers_code(compared):
    assert compared["other models"] == {"classes": True, "loss": True}


@pytest.mark.slow
def test_a_kernel_that_computes_something_else_is_refused_and_leaves_nothing_behind(compared):
    for case in ("wrong norm", "wrong rotation"):
        assert "is off by" in compared[case]["error"]
        assert compared[case]["loss"] == 0


def model_of(model_type):
    return SimpleNamespace(config=SimpleNamespace(model_type=model_type))


@pytest.mark.parametrize(("sections", "device", "model_type", "note"), [
    ({}, CPU, "llama", None),
    ({"training": {"kernels": "torch"}}, GPU, "llama", None),
    ({"engine": "unsloth"}, GPU, "llama", None),
    ({}, Gpu(torch.device("cpu"), torch.float32), "llama", "computes in float32"),
    ({}, GPU, "mamba", "models of type mamba were not tried"),
])
def test_where_torch_computes_and_what_a_note_says(sections, device, model_type, note):
    notes: list[str] = []
    spec = resolve_defaults(job(**sections).spec)
    assert use_kernels(model_of(model_type), spec, device, notes.append) == "torch"
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


@pytest.mark.parametrize("error", [ImportError("no such kernel"), RuntimeError("PassManager::run failed")])
def test_a_kernel_that_cannot_be_imported_or_compiled_costs_a_note(monkeypatch, error):
    def fail(model, keeps_outputs):
        raise error

    notes: list[str] = []
    monkeypatch.setattr(kernels, "version", lambda _: "1.0")
    monkeypatch.setattr(kernels, "apply_kernels", fail)
    assert use_kernels(model_of("llama"), resolve_defaults(job().spec), GPU, notes.append) == "torch"
    assert str(error) in notes[0]


@pytest.mark.parametrize(("method", "keeps_outputs"), [
    ({"type": "LoRA"}, False), ({"type": "DoRA"}, True), ({"type": "ReFT"}, False),
    ({"type": "ReFT", "reft": {"policy": "DoRA"}}, True)])
def test_dora_s_outputs_are_kept_from_kernels_that_write_over_them(monkeypatch, method, keeps_outputs):
    given = []
    monkeypatch.setattr(kernels, "version", lambda _: "0.8.5")
    monkeypatch.setattr(kernels, "apply_kernels", lambda model, keeps_outputs: given.append(keeps_outputs))
    spec = resolve_defaults(job(method=method).spec)
    assert use_kernels(model_of("llama"), spec, GPU, pytest.fail) == "liger-kernel 0.8.5"
    assert given == [keeps_outputs]


@pytest.mark.slow
def test_liger_is_not_imported_on_a_cpu():
    program = ("import sys; import finetune_trainer.run.attempt.attempt; "
               "assert not any(name.startswith('liger') for name in sys.modules)")
    subprocess.run([sys.executable, "-c", program], check=True)
