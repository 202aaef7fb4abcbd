"""Finding out in seconds, and not after hours, that an output can't be written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.messages.layout import PROBE

from finetune_trainer.errors import MissingInput, OutputNotWritable
from finetune_trainer.storage.interface import Storage


@contextmanager
def as_output() -> Iterator[None]:
    """Reading from an output counts as using it: where that fails, the output is at fault, not an input.

    Raises:
        OutputNotWritable: in place of `MissingInput`.
    """
    try:
        yield
    except MissingInput as error:
        raise OutputNotWritable(str(error)) from error


def probe(storage: Storage, prefix: str) -> None:
    """List, write, read and remove a small object under `prefix`.

    Raises:
        OutputNotWritable: one of these doesn't work; the message says what to check.
    """
    key = f"{prefix}/{PROBE}-{secrets.token_hex(4)}"
    content = b"written before training to see whether the output can be written\n"
    with as_output():
        # Listing first: some servers call a missing bucket a lack of rights when one writes to it.
        storage.keys(key)
        # As the manifest will be written at the end: a server that doesn't know If-None-Match says so now.
        storage.create(key, content)
        found = storage.get_bytes(key)
    if found != content:
        raise OutputNotWritable(f"{storage.root}: what was written is not what is read back; check what answers there")
    storage.delete([key])
