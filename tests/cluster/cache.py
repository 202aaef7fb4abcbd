"""What is slow to make is kept between runs: programs, images, what nodes have unpacked."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The trainer's image needs 18 GB to be built (6), stored in the registry (3), pulled (3) and unpacked by a node (6).
ROOM_BYTES = 22 << 30


def cache_folder() -> Path:
    """Where things that are slow to make are kept between runs."""
    if chosen := os.environ.get("FINETUNE_TEST_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-tests"


def make_room(folder: Path, most_bytes: int, measured: str = ".", empty: Callable[[], object] | None = None) -> None:
    """Empties a part of the cache that has grown too big, or where the disk is nearly full.

    Each change of what the trainer needs adds gigabytes that nobody will ask for again.

    Args:
        folder: the part; nobody may be using it.
        most_bytes: how big it may be.
        measured: the folder in it that is measured, where most of it is.
        empty: how to empty it; by default the folder is removed.
    """
    if not folder.exists():
        return
    size = sum(file.stat().st_size for file in (folder / measured).rglob("*") if file.is_file())
    if size > most_bytes or shutil.disk_usage(folder).free < ROOM_BYTES:
        say(f"emptying {folder} ({size >> 20} MiB counted, {shutil.disk_usage(folder).free >> 30} GiB free)")
        (empty or (lambda: shutil.rmtree(folder)))()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes; it vanishes with a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(what: str) -> None:
    """Tells the person who waits, past pytest's capturing."""
    stream = sys.__stderr__
    if stream is not None:
        stream.write(f"tests/cluster: {what}\n")
        stream.flush()
