"""The interface of a storage."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from finetune_api.messages import PublishedFile
from finetune_api.values.uris import Uri

from finetune_trainer.errors import MissingInput

_SMALL_BYTES = 64 << 20


def require_small(size: int, name: str) -> None:
    """Refuse to read a large file into memory. The trainer's own manifests are small; somebody else wrote this file.

    Raises:
        MissingInput: the file has more than 64 MiB.
    """
    if size > _SMALL_BYTES:
        raise MissingInput(f"{name} has {size} bytes; the maximum is {_SMALL_BYTES}. The trainer did not write this "
                           "file; remove it")


class Storage(Protocol):
    """Files below one root. A key is a relative path with `/`. A file is there completely or not at all.

    Writing raises `OutputNotWritable`, reading raises `MissingInput`; the message says where, why, and what to check.
    Temporary faults of a server (timeouts, 429, 5xx) have been retried before. A key that leads out of the root raises
    `BadConfig`.
    """

    root: Uri

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file."""

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small file."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file only if the key is free. Returns False, and changes nothing, where a file is there."""

    def get_bytes(self, key: str) -> bytes | None:
        """The content of a small file; None where it does not exist."""

    def get_start(self, key: str, count: int) -> tuple[bytes, int]:
        """The first `count` bytes of a file, or all if it has fewer; and its size in bytes."""

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path and create its folder. The path never holds a partly written file."""

    def digest(self, key: str) -> PublishedFile | None:
        """The digest and the size of a stored file; None where it does not exist. No copy is kept."""

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted; without what is no relative path (`finetune_api.values.paths`)."""

    def delete(self, keys: list[str]) -> None:
        """Remove files. Files that do not exist are ignored."""
