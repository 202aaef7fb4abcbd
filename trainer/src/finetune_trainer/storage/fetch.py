"""A single file of a data set or model as a local path."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from finetune_api.spec.output import S3Spec
from finetune_api.values.uris import Uri

from finetune_trainer.errors import MissingInput
from finetune_trainer.storage import file_at
from finetune_trainer.storage.download import download


def fetch(source: Uri, s3: S3Spec | None, scratch: Path) -> Path:
    """A local path with the content of a single file. A local file is not copied.

    Raises:
        MissingInput: the file does not exist or can't be read.
    """
    if source.scheme == "https":
        return download(str(source), scratch)
    if source.scheme == "file":
        path = source.local_path()
        if path.is_dir():
            raise MissingInput(f"{source} is a folder; add a slash at its end to read its files as splits, or name "
                               "a file in it")
        if not path.is_file():
            raise MissingInput(f"{source}: no such file; check the path")
        if not os.access(path, os.R_OK):
            raise MissingInput(f"{source}: user {os.getuid()} may not read it; change its permissions")
        return path
    storage, key = file_at(source, s3)
    path = scratch / "inputs" / hashlib.sha256(str(source).encode()).hexdigest()[:16] / Path(key).name
    storage.get_file(key, path)
    return path
