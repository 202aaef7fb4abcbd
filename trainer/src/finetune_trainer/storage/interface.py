"""What the trainer asks of a place where files lie."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from finetune_api.messages import PublishedFile
from finetune_api.values.uris import Uri

from finetune_trainer.errors import MissingInput

_SMALL_BYTES = 64 << 20


def require_small(size: int, place: str) -> None:
    """Refuse to read into memory what is no manifest of ours, which are far smaller: somebody else may have written it.

    Raises:
        MissingInput: it has more than 64 MiB.
    """
    if size > _SMALL_BYTES:
        raise MissingInput(f"{place} has {size} bytes, and may have {_SMALL_BYTES}: it is no file of ours")


class Storage(Protocol):
    """Files below one root. A key is a relative path with `/`; a file is either wholly there or not at all.

    Writing raises `OutputNotWritable`, reading `MissingInput`: both say where, why, and what to check. Passing faults
    of a server (timeouts, 429, 5xx) have been retried before that. A key that leads out of the root is `BadConfig`.
    """

    root: Uri

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file."""

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small file."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file only if the key is free; False where it is taken, and then nothing changes."""

    def get_bytes(self, key: str) -> bytes | None:
        """A small file's content, or None where it isn't there."""

    def get_start(self, key: str, count: int) -> tuple[bytes, int]:
        """The first bytes of a file, as many as are asked for or there are; and how many it has."""

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path, whose folder is made; a half-written file never stands there."""

    def digest(self, key: str) -> PublishedFile | None:
        """Digest and size of a file as it is there, which is not kept; None where it isn't there."""

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted; without what is no relative path (`finetune_api.values.paths`)."""

    def delete(self, keys: list[str]) -> None:
        """Remove files; those that aren't there don't matter."""
