"""A check before training that the output can be written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.messages.layout import PROBE

from finetune_trainer.errors import MissingInput, OutputNotWritable
from finetune_trainer.storage.interface import Storage


@contextmanager
def as_output() -> Iterator[None]:
    """Report a failed read from the output as a fault of the output, not of an input.

    Raises:
        OutputNotWritable: instead of `MissingInput`.
    """
    try:
        yield
    except MissingInput as error:
        raise OutputNotWritable(str(error)) from error


def probe(storage: Storage, prefix: str) -> None:
    """List, write, read and remove a small object under `prefix`.

    Raises:
        OutputNotWritable: one of these fails; the message says what to check.
    """
    key = f"{prefix}/{PROBE}-{secrets.token_hex(4)}"
    content = b"written before training to see whether the output can be written\n"
    with as_output():
        # List first: some servers report a missing bucket as missing rights when one writes to it.
        storage.keys(key)
        # Written like the manifest at the end: a server without If-None-Match fails here and not after training.
        storage.create(key, content)
        found = storage.get_bytes(key)
    if found != content:
        raise OutputNotWritable(f"{storage.root}: a file that was written and read back differs; check which server "
                                "answers at this location")
    storage.delete([key])
