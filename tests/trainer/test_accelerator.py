"""A run that was planned for a GPU, on a machine that has none: here that is true."""

from __future__ import annotations

import json
import time
from decimal import Decimal

import pytest
import torch
from finetune_api.messages import RESULT_BYTES, Accelerator, Result, RunConfig
from finetune_api.spec.compute import ComputeSpec
from finetune_trainer import faults
from finetune_trainer.errors import NoAccelerator
from finetune_trainer.hardware import accelerator as hardware
from finetune_trainer.hardware.accelerator import Sight, describe, less_memory, look, require_accelerator
from finetune_trainer.run.launcher import processes_here

from tests.trainer.faults import Fault
from tests.trainer.pods import configure, configured_workshop
from tests.trainer.runs import RunningPod, pod

GIB = 2**30
L4 = Accelerator(name="nvidia-l4", memory_bytes=24 * GIB, hourly_rate=Decimal("1.00"))
CPU = Accelerator(name="cpu", hourly_rate=Decimal("0.10"))
WHOLE = Sight(("/dev/nvidia0", "/dev/nvidiactl"), ("/usr/lib64/libcuda.so.1",), "says 'GPU 0: NVIDIA L4'", {})


def planned_for_an_l4(folder, **sections):
    """The folder of a run configuration as the operator writes it for an L4."""
    folder.mkdir(exist_ok=True)
    config = configure(folder, **sections)
    written = RunConfig.read((config / "run.json").read_text())
    (config / "run.json").write_text(written.model_copy(update={"accelerator": L4}).model_dump_json(exclude_none=True))
    return config


def ended(folder, config, environment=None, child=pod):
    """How a pod ended, and its result message."""
    log = folder / "termination"
    run = RunningPod(folder / "log.txt", ["run", "--config", str(config), "--port", "0", "--termination-log", str(log)],
                     {"HF_HUB_OFFLINE": "1", **(environment or {})}, child).wait()
    assert len(log.read_bytes()) <= RESULT_BYTES
    return run, Result.model_validate_json(log.read_bytes())


# The run

def test_a_pod_without_its_accelerator_ends_with_69_before_it_reads_anything_or_waits_for_others(tmp_path):
    # There is no model and there are no rows, and nobody answers at the address of rank 0.
    config = planned_for_an_l4(tmp_path, compute={"nodes": 2})
    run, result = ended(tmp_path, config, {"FINETUNE_NODES": "2", "JOB_COMPLETION_INDEX": "1",
                                           "FINETUNE_RENDEZVOUS": "127.0.0.1:1", "CUDA_VISIBLE_DEVICES": "GPU-4e2d"})
    assert (run.code, result.outcome) == (69, "NoAccelerator"), run.output
    assert "the run was planned for nvidia-l4, and the trainer cannot use a GPU: torch says '" in result.message
    assert "CUDA_VISIBLE_DEVICES is 'GPU-4e2d'" in result.message
    assert not (tmp_path / "out").exists()


def test_a_pod_of_several_gpus_that_sees_fewer_ends_with_69(tmp_path, monkeypatch):
    run, result = ended(tmp_path, planned_for_an_l4(tmp_path, compute={"gpusPerNode": 4}))
    assert (run.code, result.outcome) == (69, "NoAccelerator"), run.output
    assert result.message.startswith("spec.compute.gpusPerNode is 4; the trainer sees 0 GPUs of nvidia-l4 on its node")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes_here(ComputeSpec(gpus_per_node=4), L4) == 4


def _pod_with_ten_gib(arguments, environment, log):
    """A pod whose GPU, a slice of an L4, is this machine's memory."""
    hardware._use = lambda index: 10 * GIB
    pod(arguments, environment, log)


def test_a_gpu_with_less_memory_is_named_in_the_log_and_where_memory_does_not_suffice(tmp_path):
    config = planned_for_an_l4(configured_workshop(tmp_path))
    run, result = ended(tmp_path, config, {"FINETUNE_FAULT": "oom:0"}, _pod_with_ten_gib)
    assert run.code == 71, run.output
    words = "the GPU has 10.0 GiB of memory; the catalogue says 24.0 GiB for nvidia-l4. It may be a MIG slice"
    assert result.message.count(words) == 1
    assert run.output.index("the GPU has 10.0 GiB") < run.output.index("training rows")


def test_a_run_that_was_planned_for_processors_needs_no_gpu(monkeypatch):
    assert require_accelerator(CPU, 0) is None
    with pytest.raises(NoAccelerator):
        require_accelerator(L4, 0)
    monkeypatch.setattr(faults, "_hook", Fault("", simulates_accelerator=True))
    assert require_accelerator(L4, 0) is None
    assert processes_here(ComputeSpec(gpus_per_node=4), L4) == 1


@pytest.mark.parametrize("value", ["", "nan:3", "oom:0"])
def test_no_fault_hides_that_there_is_no_gpu_unless_a_test_says_so(value):
    assert not faults.NoFaults().simulates_accelerator()
    assert not Fault(value).simulates_accelerator()


# Memory

@pytest.mark.parametrize(("nominal", "gib"), [(24, 22.0), (16, 14.56), (80, 79.1), (None, 5)])
def test_what_a_driver_keeps_for_itself_is_not_missing(nominal, gib):
    accelerator = L4.model_copy(update={"memory_bytes": nominal and nominal * GIB})
    assert less_memory(accelerator, int(gib * GIB)) is None


def test_a_slice_of_a_gpu_is_told():
    note = less_memory(L4.model_copy(update={"name": "nvidia-h100", "memory_bytes": 80 * GIB}), int(39.5 * GIB))
    assert note.startswith("the GPU has 39.5 GiB of memory; the catalogue says 80.0 GiB for nvidia-h100. ")


# What it sees

def program(folder, text):
    """A folder with a program `nvidia-smi`."""
    folder.mkdir(parents=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return folder


def test_device_files_libraries_and_variables_are_listed(tmp_path):
    for name in ("dev/nvidia0", "dev/nvidiactl", "dev/null", "usr/local/nvidia/lib64/libcuda.so.1",
                 "opt/driver/libcuda.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sight = look({"LD_LIBRARY_PATH": "/opt/driver:", "CUDA_VISIBLE_DEVICES": "0", "HF_TOKEN": "secret"}, tmp_path)
    assert sight == Sight(("/dev/nvidia0", "/dev/nvidiactl"),
                          ("/opt/driver/libcuda.so", "/usr/local/nvidia/lib64/libcuda.so.1"), None,
                          {"CUDA_VISIBLE_DEVICES": "0"})
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert look({}, nothing) == Sight((), (), None, {})


@pytest.mark.parametrize(("text", "answer"), [
    ("echo 'GPU 0: NVIDIA L4'; echo 'GPU 1: NVIDIA L4'", "says 'GPU 0: NVIDIA L4 GPU 1: NVIDIA L4'"),
    ("echo 'NVML: Driver/library version mismatch' >&2; exit 18",
     "ends with 18 and says 'NVML: Driver/library version mismatch'"),
    ("exec sleep 600", "does not answer in 0.2 s"),
], ids=["works", "fails", "hangs"])
def test_what_nvidia_smi_says_is_quoted(tmp_path, text, answer):
    folder = program(tmp_path / "bin", text)
    seconds = 0.2 if "sleep" in text else 60
    before = time.monotonic()
    assert look({"PATH": f"{folder}:/usr/bin:/bin"}, tmp_path, seconds).nvidia_smi == answer
    assert time.monotonic() - before < 60


def test_nvidia_smi_is_found_where_gke_mounts_it_and_a_long_answer_is_cut(tmp_path):
    program(tmp_path / "usr/local/nvidia/bin", "yes GPU | head -n 1000")
    answer = look({"PATH": ""}, tmp_path).nvidia_smi
    assert answer.startswith("says 'GPU GPU ")
    assert answer.endswith("…'")
    assert len(answer) < 300


@pytest.mark.parametrize(("change", "error", "words"), [
    ({}, "no CUDA-capable device is detected", "The driver does not work with this GPU or this image"),
    ({}, "CUDA driver error: operation not supported", "PYTORCH_ALLOC_CONF to expandable_segments:False"),
    ({}, None, "A GPU of the node is lost or hidden"),
    ({"devices": ()}, "No CUDA GPUs are available", "The container got no GPU: an administrator checks"),
    ({"libraries": ()}, "Found no NVIDIA driver", "(nvidia-container-toolkit)"),
    ({"libraries": (), "variables": {"NVIDIA_DRIVER_CAPABILITIES": "utility"}}, "Found no NVIDIA driver",
     "NVIDIA_DRIVER_CAPABILITIES has compute"),
    ({"variables": {"CUDA_VISIBLE_DEVICES": ""}}, "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES hides the GPUs"),
], ids=["driver", "virtual", "fewer", "no device", "no library", "no capability", "hidden"])
def test_the_message_names_what_to_check(change, error, words):
    sight = Sight(**{**WHOLE.__dict__, **change})
    message = describe(sight, error)
    assert words in message.rpartition(". ")[2]
    assert ("torch says" in message) == (error is not None)
    if not change:
        assert ("device files: /dev/nvidia0, /dev/nvidiactl; the driver's library: /usr/lib64/libcuda.so.1; nvidia-smi "
                "says 'GPU 0: NVIDIA L4'; CUDA_VISIBLE_DEVICES is not set") in message
    assert len(json.dumps(message)) < 1200
