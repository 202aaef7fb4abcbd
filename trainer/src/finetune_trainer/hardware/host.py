"""Processors and memory that this process may use: the limits of the container, not those of the host."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

PROCESSORS = "FINETUNE_CPUS"
"""Environment variable: the processors that the pod requested. More may be idle now, but are not guaranteed."""

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def processors(environment: Mapping[str, str] = os.environ, proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """The number of processors to use: the least of the pod's request, its quota, and the process's affinity."""
    counts = [len(os.sched_getaffinity(0)), *_quotas(proc, groups)]
    if (asked := environment.get(PROCESSORS, "")).isdecimal() and int(asked):
        counts.append(int(asked))
    return max(1, min(counts))


def memory_bytes(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """The memory in bytes that this process and its children may use together."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for text in (*_read("memory", "memory.max", proc, groups),
                                     *_read("memory", "memory.limit_in_bytes", proc, groups)) if text.isdecimal()]
    return min([physical, *limits])


def resident_bytes(proc: Path = _PROC) -> int:
    """The resident memory of this process in bytes."""
    return int((proc / "self" / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _quotas(proc: Path, groups: Path) -> Iterator[int]:
    for text in _read("cpu", "cpu.max", proc, groups):
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield math.ceil(int(quota) / int(period))
    quotas, periods = (_read("cpu", f"cpu.cfs_{name}_us", proc, groups) for name in ("quota", "period"))
    for quota, period in zip(quotas, periods, strict=True):
        if quota.isdecimal() and period.isdecimal():
            yield math.ceil(int(quota) / int(period))


def _read(controller: str, name: str, proc: Path, groups: Path) -> list[str]:
    """A file of this process's control group and of all its parents: each of them is a limit.

    In a container the group is often the root of what is visible; then only that file exists.
    """
    found: list[str] = []
    for group in dict.fromkeys(_groups(controller, proc)):
        for root in (groups / controller, groups):
            try:
                found.append((root / group.lstrip("/") / name).read_text().strip())
                break
            except OSError:
                continue
    return found


def _groups(controller: str, proc: Path) -> Iterator[str]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, names, path = line.split(":", 2)
        if not names or controller in names.split(","):
            yield from (path, *map(str, PurePosixPath(path).parents))
    yield "/"
