"""Checks that the accelerator that a run was planned for can be used. If not, the error tells what this process sees.

Without this check a pod on a node with a broken driver trains on its processors, at the price of a GPU.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.messages import Accelerator

from finetune_trainer import faults
from finetune_trainer.errors import NoAccelerator, first_line

_GIB = 1024**3
_LEAST_SHARE = 0.8
"""Driver and error correction take less than the rest of a GPU's nominal memory. A MIG slice has at most half."""

_NVIDIA_SMI_SECONDS = 10.0
_NVIDIA_SMI_CHARACTERS = 240
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")
_MOUNTED = "/usr/local/nvidia"
"""Where GKE mounts the driver's programs (`bin`) and libraries (`lib64`)."""

_LIBRARY_FOLDERS = (f"{_MOUNTED}/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64",
                    "/usr/lib/wsl/lib")


def require_accelerator(accelerator: Accelerator, local_rank: int) -> str | None:
    """Check that this process can use its GPU, if the run was planned for GPUs.

    Args:
        accelerator: the accelerator that the run was planned for.
        local_rank: the number of this process on its node; it uses the GPU of this number.

    Returns:
        A note for people if the GPU has clearly less memory than the run was planned for; else None.

    Raises:
        NoAccelerator: it cannot use the GPU. The message says what it sees, and what to check.
    """
    if not is_required(accelerator):
        return None
    try:
        memory_bytes = _use(local_rank)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError.
        raise NoAccelerator(f"the run was planned for {accelerator.name}, and the trainer cannot use a GPU: "
                            f"{describe(look(), first_line(error))}") from error
    return less_memory(accelerator, memory_bytes)


def require_count(accelerator: Accelerator, wanted: int, found: int) -> None:
    """Check that a node has as many GPUs as the job asks for, if the run was planned for GPUs.

    Raises:
        NoAccelerator: it has fewer. The message says what it sees, and what to check.
    """
    if is_required(accelerator) and found < wanted:
        raise NoAccelerator(f"spec.compute.gpusPerNode is {wanted}; the trainer sees {found} GPUs of "
                            f"{accelerator.name} on its node: {describe(look(), _torch_error())}")


def is_required(accelerator: Accelerator) -> bool:
    """Whether a run that was planned for this accelerator needs a GPU."""
    return accelerator.is_gpu and not faults.simulates_accelerator()


def less_memory(accelerator: Accelerator, memory_bytes: int) -> str | None:
    """A note if a GPU has clearly less memory than the catalogue says; None if not, or if the catalogue does not say.

    The run goes on: its micro-batch is chosen by the memory that is there.
    """
    nominal = accelerator.memory_bytes
    if nominal is None or memory_bytes >= _LEAST_SHARE * nominal:
        return None
    return (f"the GPU has {memory_bytes / _GIB:.1f} GiB of memory; the catalogue says {nominal / _GIB:.1f} GiB for "
            f"{accelerator.name}. It may be a MIG slice or another model: an administrator checks memory and resource "
            f"of the accelerator in the operator's settings")


def _use(index: int) -> int:
    """Use a GPU for one small computation; its memory in bytes.

    A driver that lists a GPU may still be unable to use it: for example if the GPU has errors, or is too old for torch.

    Raises:
        RuntimeError: it cannot be used, in the words of torch.
        AssertionError: torch was built without CUDA.
    """
    import torch

    device = torch.device("cuda", index)
    torch.zeros(1, device=device).add_(1)
    torch.cuda.synchronize(device)
    return int(torch.cuda.get_device_properties(device).total_memory)


def _torch_error() -> str | None:
    """Why torch cannot use any GPU, in its own words; None if it can."""
    try:
        _use(0)
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return None


@dataclass(frozen=True)
class Sight:
    """What a process sees of GPUs, beside torch.

    Attributes:
        devices: the device files, `/dev/nvidia*`.
        libraries: the files of the driver's library, `libcuda.so*`.
        nvidia_smi: what `nvidia-smi -L` says; None if there is no such program.
        variables: the variables that decide which GPUs a process sees; only those that are set.
    """

    devices: tuple[str, ...]
    libraries: tuple[str, ...]
    nvidia_smi: str | None
    variables: Mapping[str, str]


def look(environment: Mapping[str, str] = os.environ, root: Path = Path("/"),
         seconds: float = _NVIDIA_SMI_SECONDS) -> Sight:
    """What this process sees.

    Args:
        environment: the variables of the process.
        root: the root of the file system.
        seconds: how long nvidia-smi may take.
    """
    folders = [*environment.get("LD_LIBRARY_PATH", "").split(":"), *_LIBRARY_FOLDERS]
    libraries = [f"/{path.relative_to(root)}" for folder in dict.fromkeys(folders) if folder
                 for path in sorted((root / folder.lstrip("/")).glob("libcuda.so*"))]
    devices = [f"/{path.relative_to(root)}" for path in sorted((root / "dev").glob("nvidia*"))]
    search = ":".join((environment.get("PATH", ""), str(root / _MOUNTED.lstrip("/") / "bin")))
    program = shutil.which("nvidia-smi", path=search)
    return Sight(tuple(devices), tuple(dict.fromkeys(libraries)),
                 _answer(program, seconds) if program else None,
                 {name: environment[name] for name in _VARIABLES if name in environment})


def _answer(program: str, seconds: float) -> str:
    """What nvidia-smi says, in one line. It can hang if the driver does, even after it is killed."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen([program, "-L"], stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT)
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            return f"does not answer in {seconds:g} s"
        output.seek(0)
        text = " ".join(output.read(4096).decode(errors="replace").split())
    said = text if len(text) <= _NVIDIA_SMI_CHARACTERS else f"{text[:_NVIDIA_SMI_CHARACTERS]}…"
    return f"says '{said}'" if process.returncode == 0 else f"ends with {process.returncode} and says '{said}'"


def describe(sight: Sight, torch_error: str | None) -> str:
    """What a process sees, and what an administrator has to check, in one line.

    Args:
        sight: what it sees.
        torch_error: why torch cannot use a GPU; None if it can use one.
    """
    return f"{'; '.join(_facts(sight, torch_error))}. {_cure(sight, torch_error)}"


def _facts(sight: Sight, torch_error: str | None) -> Iterator[str]:
    if torch_error:
        yield f"torch says '{torch_error.rstrip('.')}'"
    yield f"device files: {', '.join(sight.devices) or 'none (/dev/nvidia*)'}"
    yield f"the driver's library: {', '.join(sight.libraries) or 'not found (libcuda.so)'}"
    yield f"nvidia-smi {sight.nvidia_smi or 'is not found'}"
    yield from (f"{name} is {sight.variables[name]!r}" if name in sight.variables else f"{name} is not set"
                for name in _VARIABLES[:2])


def _cure(sight: Sight, torch_error: str | None) -> str:
    """What to check, by the first of the things that a GPU needs and that is missing."""
    if sight.variables.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return "CUDA_VISIBLE_DEVICES hides the GPUs: remove it from the image or the pod template"
    if torch_error is None:
        return ("A GPU of the node is lost or hidden: an administrator compares what nvidia-smi lists in the pod and "
                "on the node, and restarts or replaces the node")
    if not sight.devices:
        return ("The container got no GPU: an administrator checks the node's device plugin, and that the pod has "
                "NVIDIA's runtime class where the node needs one (runtimeClassName in the accelerator's podTemplate of "
                "the operator's settings)")
    if not sight.libraries:
        capabilities = sight.variables.get("NVIDIA_DRIVER_CAPABILITIES", "compute")
        more = "" if {"compute", "all"} & set(capabilities.split(",")) else (
            ", and that NVIDIA_DRIVER_CAPABILITIES has compute")
        return ("The container got the device and not the driver's libraries: an administrator checks that the node's "
                f"driver is installed and its container runtime is set up for NVIDIA (nvidia-container-toolkit){more}")
    if "not supported" in torch_error:
        return ("If the GPU is a virtual one, its driver may lack virtual memory management: set the variable "
                "PYTORCH_ALLOC_CONF to expandable_segments:False (in a cluster an administrator sets it in the "
                "accelerator's podTemplate of the operator's settings)")
    return ("The driver does not work with this GPU or this image: an administrator checks the driver's version and "
            "the node's kernel log (NVRM, Xid), and restarts or replaces the node")
