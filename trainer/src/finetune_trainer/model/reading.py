"""The one boundary to libraries that read a model's files: whatever they raise is said in our words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.errors import BadConfig, MissingInput, TrainerError, first_line

_OF_FILES = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG}
"""What a folder can be the reason of; other refusals are the machine's, and pass."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn the errors of libraries that read a model's files into those of the trainer.

    Files that others wrote make them raise everything: KeyError, TypeError, RecursionError, SafetensorError, and
    tokenizers' bare Exception. What the machine refuses (memory, a disk, an accelerator that failed) passes.

    Args:
        what: what is read, such as "the tokenizer".

    Raises:
        BadConfig: it can't be read.
        MissingInput: a file of it is not there, or may not be read.
    """
    try:
        yield
    except (TrainerError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):  # torch's, which is not imported here.
            raise
        if isinstance(error, OSError) and error.errno:
            if error.errno not in _OF_FILES:
                raise
            place = f" ({error.filename})" if error.filename else ""
            raise MissingInput(f"spec.model.source: {what} can't be read: {error.strerror or error}{place}") from error
        raise BadConfig(f"spec.model.source: {what} can't be loaded: {first_line(error)}") from error
