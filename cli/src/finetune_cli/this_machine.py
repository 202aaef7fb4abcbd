"""What this machine has for `finetune run`: its GPU, or its processors and memory. Needs no torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from finetune_cli import trainer

_MIB = 1024**2
_SECONDS = 10
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine.

    Attributes:
        name: its product name.
        memory_bytes: its memory in bytes.
    """

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class ThisMachine:
    """What a run on this machine has.

    Attributes:
        gpu: the first GPU; None where there is none.
        memory_bytes: host memory that a process may use, in bytes.
        processors: processors that a process may use.
    """

    gpu: Gpu | None
    memory_bytes: int
    processors: int


def this_machine() -> ThisMachine:
    """What a run on this machine has: the limits of a container count where there are any."""
    memory, processors = trainer.host_limits() or (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), len(os.sched_getaffinity(0)))
    return ThisMachine(_first_gpu(), memory, processors)


def _first_gpu() -> Gpu | None:
    """The first GPU that the driver's own tool lists; None without a driver."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, size = done.stdout.partition("\n")[0].rpartition(",")
    return Gpu(name.strip(), int(size) * _MIB) if size.strip().isdecimal() else None
