"""Checkpoints in the output: written in the background, complete only once their manifest is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from finetune_api.layout import CHECKPOINT_MANIFEST, CHECKPOINTS, checkpoint_prefix
from finetune_api.messages import CheckpointManifest, PublishedFile
from pydantic import ValidationError

from finetune_trainer.digests import file_digest
from finetune_trainer.errors import MissingInput
from finetune_trainer.faults import reach
from finetune_trainer.storage import BackgroundUploader, Storage

_KEPT = 2


@dataclass(frozen=True)
class Identity:
    """What has to be the same for a checkpoint to fit a run: job, rows and base weights.

    Attributes:
        spec_hash: digest of what decides the result.
        data_hash: digest of the prepared rows.
        base_hash: digest of the base weights in memory.
        environment: machine type, threads and versions; where these differ a resumed run goes on, but not bit by bit.
    """

    spec_hash: str
    data_hash: str
    base_hash: str
    environment: dict[str, str]


def list_files(folder: Path, without: Collection[str] = ()) -> tuple[PublishedFile, ...]:
    """Every file below a folder, but for some, with digest and size, sorted by path."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return tuple(PublishedFile(path=name, sha256=file_digest(path), size_bytes=path.stat().st_size)
                 for name, path in paths.items() if name not in without)


class CheckpointStore:
    """The checkpoints of one job in its output."""

    def __init__(self, storage: Storage, prefix: str, attempt: int, uploader: BackgroundUploader,
                 tell: Callable[[str], None]) -> None:
        self._storage = storage
        self._prefix = prefix
        self._attempt = attempt
        self._uploader = uploader
        self._tell = tell
        self.complete_step = 0

    def save(self, folder: Path, step: int, identity: Identity, trained_seconds: float) -> None:
        """Upload a checkpoint in the background; `folder` is removed afterwards. Failures come with the next call."""
        manifest = CheckpointManifest(
            step=step, attempt=self._attempt, spec_hash=identity.spec_hash, data_hash=identity.data_hash,
            base_hash=identity.base_hash, environment=identity.environment, trained_seconds=trained_seconds,
            files=list_files(folder),
        )
        self._uploader.submit(lambda: self._upload(folder, manifest))

    def _upload(self, folder: Path, manifest: CheckpointManifest) -> None:
        target = f"{self._prefix}/{checkpoint_prefix(self._attempt, manifest.step)}"
        for file in manifest.files:
            self._storage.put_file(f"{target}/{file.path}", folder / file.path)
        reach(f"checkpoint-{manifest.step}")
        self._storage.put_bytes(f"{target}/{CHECKPOINT_MANIFEST}", manifest.model_dump_json().encode())
        self.complete_step = manifest.step
        shutil.rmtree(folder, ignore_errors=True)
        reach(f"checkpointed-{manifest.step}")
        self._remove_old()

    def _remove_old(self) -> None:
        keys = self._storage.keys(f"{self._prefix}/{CHECKPOINTS}/")
        complete = sorted((key for key in keys if key.endswith(f"/{CHECKPOINT_MANIFEST}")), key=_step_of)
        for manifest in complete[:-_KEPT]:
            folder = manifest.rpartition("/")[0] + "/"
            # The manifest goes first, so that nobody takes a checkpoint whose files are going.
            self._storage.delete([manifest])
            self._storage.delete([key for key in keys if key.startswith(folder) and key != manifest])

    def newest(self, identity: Identity, folder: Path, step: int | None = None, without: Collection[str] = ()
               ) -> CheckpointManifest | None:
        """Fetch the newest complete checkpoint that fits, checked file by file, into `folder`; None if there is none.

        One that doesn't fit or is damaged is passed over, and said.

        Args:
            identity: what it has to fit.
            folder: where its files go.
            step: its step, where that is known; else any.
            without: files that aren't needed.
        """
        keys = self._storage.keys(f"{self._prefix}/{CHECKPOINTS}/")
        complete = sorted((key for key in keys if key.endswith(f"/{CHECKPOINT_MANIFEST}")), key=_step_of, reverse=True)
        for key in complete:
            if step is not None and _step_of(key)[0] != step:
                continue
            source = key.rpartition("/")[0]
            fault = self._fetch(key, source, identity, folder, without)
            if isinstance(fault, CheckpointManifest):
                self.complete_step = fault.step
                return fault
            self._tell(f"the checkpoint {source} is passed over: {fault}")
        return None

    def _fetch(self, key: str, source: str, identity: Identity, folder: Path, without: Collection[str]
               ) -> CheckpointManifest | str:
        try:
            manifest = CheckpointManifest.model_validate_json(self._storage.get_bytes(key) or b"")
        except ValidationError:
            return "its manifest can't be read"
        for name, mine, its in (("job", identity.spec_hash, manifest.spec_hash),
                                ("data", identity.data_hash, manifest.data_hash),
                                ("base weights", identity.base_hash, manifest.base_hash)):
            if mine != its:
                return f"it belongs to other {name}"
        shutil.rmtree(folder, ignore_errors=True)
        for file in manifest.files:
            if file.path in without:
                continue
            path = folder / file.path
            try:
                self._storage.get_file(f"{source}/{file.path}", path)
            except MissingInput:
                return f"{file.path} is missing"
            # Checked before anything reads it: trainer state is only opened once its digest fits.
            if file_digest(path) != file.sha256:
                return f"{file.path} is damaged"
        for name in sorted(identity.environment):
            if manifest.environment.get(name) != identity.environment[name]:
                self._tell(f"resuming on another {name} ({identity.environment[name]}, before "
                           f"{manifest.environment.get(name)}): the result is as good, but not the same to the bit")
        return manifest


def _step_of(key: str) -> tuple[int, int]:
    """Step and attempt of `…/<attempt>/step-<step>/checkpoint.json`."""
    attempt, step = key.split("/")[-3:-1]
    return int(step.removeprefix("step-")), int(attempt)


