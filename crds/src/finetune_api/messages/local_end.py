"""How `finetune run` ended, as a file that a program can read."""

from __future__ import annotations

from finetune_api.messages.manifest import RunFigures
from finetune_api.messages.result import Result
from finetune_api.values.api_model import Message


class LocalEnd(Message):
    """How `finetune run --result FILE` ended."""

    exit_code: int
    """Exit code of the command."""

    result: Result
    """Result of the job."""

    figures: RunFigures | None = None
    """What this run took; None if it did not train."""

    report: str | None = None
    """Location of the report."""
