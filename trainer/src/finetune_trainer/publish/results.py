"""Reads what a job has published, for the report of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from finetune_api.messages import Manifest, RowScores, SampleAnswers
from finetune_api.messages.layout import ANSWERS, METRICS, ROW_SCORES
from finetune_api.values.uris import Uri
from pydantic import ValidationError

from finetune_trainer.errors import MissingInput
from finetune_trainer.progress.metrics_log import steps_of
from finetune_trainer.publish.adoption import read_manifest
from finetune_trainer.report.charts import mean_losses
from finetune_trainer.report.experiment.facts import JobResult
from finetune_trainer.report.rollout_charts import supervised
from finetune_trainer.report.svg import Point
from finetune_trainer.storage import Storage

T = TypeVar("T")

_FOLDERS = 3
"""Folders of a job below its output: namespace, name, uid."""


def read_result(storage: Storage, adapter: str, method: str) -> tuple[JobResult, list[str]]:
    """What a job has published, and a sentence for each part of it that cannot be read.

    Args:
        storage: the job's output.
        adapter: the location of what it published, as its status says.
        method: the usual name of its method.
    """
    prefix = _job_folder(storage.root, adapter)
    if prefix is None:
        return JobResult(method), [f"{adapter} is not below {storage.root}"]
    try:
        manifest = read_manifest(storage, prefix)
        if not isinstance(manifest, Manifest):
            return JobResult(method), [manifest or f"{storage.root.join(prefix)} has no manifest"]
    except MissingInput as error:
        return JobResult(method), [str(error)]
    parts = _Parts(storage, prefix, manifest)
    result = JobResult(method, manifest, parts.read(ROW_SCORES, RowScores.read),
                       parts.read(ANSWERS, SampleAnswers.read), parts.read(METRICS, _losses) or ())
    return result, parts.missing


class _Parts:
    """The documents of a result, as its manifest lists them; what it does not list was not made."""

    def __init__(self, storage: Storage, prefix: str, manifest: Manifest) -> None:
        self._storage, self._prefix, self._manifest = storage, prefix, manifest
        self.missing: list[str] = []

    def read(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        path = self._manifest.path_of(name)
        if path is None:
            return None
        try:
            content = self._storage.get_bytes(f"{self._prefix}/{path}")
            if content is not None:
                return parse(content)
            fault = "no such file"
        except (MissingInput, ValidationError, ValueError, TypeError, OverflowError, RecursionError) as error:
            fault = str(error).partition("\n")[0]
        self.missing.append(f"{self._storage.root.join(self._prefix, path)} is not shown: {fault}")
        return None


def _losses(content: bytes) -> tuple[Point, ...]:
    return tuple(mean_losses(supervised(steps_of(content.decode("utf-8", "replace")))))


def _job_folder(root: Uri, adapter: str) -> str | None:
    """The folder of a job below an output, from the location of what it published; None where it is elsewhere."""
    home = f"{root.join('')}".rstrip("/") + "/"
    names = adapter.removeprefix(home).split("/")
    if not adapter.startswith(home) or len(names) <= _FOLDERS:
        return None
    return "/".join(names[:_FOLDERS])
