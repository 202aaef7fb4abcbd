"""A temporary folder for one process."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "finetune-scratch-"


def new_scratch() -> Path:
    """A new folder of this process. The folders of processes that were killed are removed first."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
