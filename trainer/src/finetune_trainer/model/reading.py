"""The boundary to libraries that read a model's files: it turns their errors into the trainer's own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.errors import BadConfig, MissingInput, TrainerError, first_line

_OF_FILES = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG}
"""Errors that a wrong folder can cause. Other errors are the machine's, and are not turned."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn the errors of libraries that read a model's files into those of the trainer.

    A damaged file can make them raise anything: KeyError, TypeError, RecursionError, SafetensorError, or the bare
    Exception of tokenizers. Errors of the machine (memory, a disk, a failed accelerator) stay as they are.

    Args:
        what: what is read, such as "the tokenizer".

    Raises:
        BadConfig: it can't be read.
        MissingInput: one of its files does not exist, or may not be read.
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
