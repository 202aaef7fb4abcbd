"""The device that the trainer computes on, and its precision."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sysconfig
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from finetune_api.spec.training import Precision

from finetune_trainer.errors import BadConfig

_PACKAGES = ("accelerate", "bitsandbytes", "peft", "torch", "transformers", "trl")


@dataclass(frozen=True)
class Device:
    """The device of this process.

    Attributes:
        torch_device: the device of all tensors.
        dtype: the type that the model computes in.
    """

    torch_device: torch.device
    dtype: torch.dtype

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.torch_device.type == "cuda"

    def autocast(self) -> AbstractContextManager[Any]:
        """The type of a forward pass, around every one of the model outside of the training loop.

        accelerate computes training in this type, also where weights are in float32: adapters, and base weights while
        they are trained. Without it, evaluations and roll-outs would compute those in float32.
        """
        return torch.autocast(self.torch_device.type, self.dtype, enabled=self.dtype is not torch.float32)


def choose_device(precision: Precision, wants_gpu: bool | None = None) -> Device:
    """The device of this process: its GPU where there is one, else the CPU.

    Args:
        precision: the job's `spec.training.precision`.
        wants_gpu: False takes the CPU even where a GPU is.

    Raises:
        BadConfig: the precision is not possible here, or the GPU's kernels can't be compiled.
    """
    if wants_gpu is not False and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        _require_compiler()
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision is Precision.BFLOAT16 and not bf16:
            raise BadConfig("spec.training.precision is bfloat16; this GPU does not support it. Write float32 or auto")
        dtype = torch.float32 if precision is Precision.FLOAT32 or not bf16 else torch.bfloat16
        return Device(device, dtype)
    if precision is Precision.BFLOAT16:
        raise BadConfig("spec.training.precision is bfloat16; on a CPU the trainer computes in float32. Write "
                        "float32 or auto")
    return Device(torch.device("cpu"), torch.float32)


def _require_compiler() -> None:
    """Check for a C compiler: Triton, which computes the loss, compiles a launcher for each kernel.

    Raises:
        BadConfig: there is no compiler, or Python's headers are missing.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not compiler or not header.exists():
        raise BadConfig("training on a GPU needs a C compiler and Python's headers; install them (on Debian "
                        "gcc, libc6-dev and python3-dev)")


def make_deterministic(device: Device) -> None:
    """Make results repeatable: always on a CPU; on a GPU as far as its kernels allow."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device.is_gpu)
    # Filling new memory only helps to find bugs, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def peak_memory_bytes(device: Device) -> int:
    """The peak so far: of allocated memory on a GPU, of resident memory on a CPU."""
    if device.is_gpu:
        return int(torch.cuda.max_memory_allocated(device.torch_device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment(device: Device) -> dict[str, str]:
    """What must be the same for a bit-exact resume: machine, threads and package versions."""
    hardware = torch.cuda.get_device_name(device.torch_device) if device.is_gpu else _cpu_name()
    return {"machine": f"{platform.machine()} {hardware}", "threads": str(torch.get_num_threads()),
            "python": platform.python_version(), "finetune-trainer": version("finetune-trainer"), **package_versions()}


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the results."""
    return {package: version(package) for package in _PACKAGES}


def _cpu_name() -> str:
    return f"{platform.processor() or 'cpu'} {torch.backends.cpu.get_cpu_capability()}"
