"""Checkpoints in the output: writing them, and fetching the newest one that fits, from which a run resumes.

They are uploaded in the background, and complete once their manifest is there.

A checkpoint that cannot be written ends the run (exit code 73). A run that went on without checkpoints would lose more
with every step, and its result goes to the same output; the storage has already retried by then.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from finetune_api.messages import CheckpointManifest, PublishedFile
from finetune_api.messages.layout import CHECKPOINT_MANIFEST, checkpoint_prefix
from finetune_api.values.paths import below

from finetune_trainer.errors import BadConfig, MissingInput
from finetune_trainer.faults import reach
from finetune_trainer.storage import BackgroundUploader, Storage
from finetune_trainer.storage.digests import file_digest
from finetune_trainer.training.complete_checkpoints import (
    Checkpoint,
    Identity,
    ResumeSource,
    checkpoint_mismatch,
    complete_checkpoints,
    no_checkpoint,
    read_checkpoint,
)

_KEPT = 2
_OWN_ONLY = ResumeSource()


def list_files(folder: Path, without: Collection[str] = ()) -> tuple[PublishedFile, ...]:
    """Every file below a folder with digest and size, sorted by path; without the files named in `without`."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return tuple(PublishedFile(path=name, sha256=file_digest(path), size_bytes=path.stat().st_size)
                 for name, path in paths.items() if name not in without)


class CheckpointStore:
    """The checkpoints of one job in its output, and those of the earlier job that it can resume from.

    Attributes:
        complete_step: the step of the newest complete checkpoint; 0 if there is none.
        not_resumed: why the job cannot resume from the job that it names, and trains from the start; None if it can.
    """

    def __init__(self, storage: Storage, prefix: str, attempt: int, uploader: BackgroundUploader,
                 note: Callable[[str], None], source: ResumeSource = _OWN_ONLY) -> None:
        """
        Args:
            storage: the job's output.
            prefix: the job's folder there.
            attempt: the attempt's number.
            uploader: uploads in the background.
            note: receives notes for people.
            source: what the job can resume from, beside its own checkpoints.
        """
        self._storage = storage
        self._prefix = prefix
        self._attempt = attempt
        self._source = source
        self._uploader = uploader
        self._note = note
        self._broken: set[str] = set()
        self._fitting: dict[str, bool] = {}
        self._earlier: CheckpointManifest | None = None
        self.complete_step = 0
        self.not_resumed: str | None = None

    def save(self, folder: Path, step: int, identity: Identity, trained_seconds: float) -> None:
        """Upload a checkpoint in the background; `folder` is removed afterwards. The uploader raises failures."""
        manifest = CheckpointManifest(
            step=step, attempt=self._attempt, spec_hash=identity.spec_hash, data_hash=identity.data_hash,
            base_hash=identity.base_hash, environment=identity.environment, trained_seconds=trained_seconds,
            date=self._source.date, files=list_files(folder),
        )
        self._earlier = None
        self._uploader.submit(lambda: self._upload(folder, manifest))

    def take_over(self, folder: Path) -> None:
        """Write the checkpoint of the earlier job as one of this job, if this job has trained no step since.

        Otherwise a job that resumes from this one would find no checkpoint.

        Args:
            folder: where `newest` has put its files; it is removed afterwards.
        """
        if self._earlier is not None:
            manifest = self._earlier.model_copy(update={"attempt": self._attempt})
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
        self._remove_old(manifest)

    def _remove_old(self, newest: CheckpointManifest) -> None:
        """Keep the last two checkpoints that fit this run, and remove older ones. Others are never removed."""
        fitting = [one for one in complete_checkpoints(self._storage, self._prefix, None)
                   if one.folder not in self._broken and self._fits(one, newest)]
        for old in fitting[:-_KEPT]:
            # The manifest is removed first, so that no run resumes from a checkpoint without files.
            self._storage.delete([f"{old.folder}/{CHECKPOINT_MANIFEST}"])
            self._storage.delete(self._storage.keys(f"{old.folder}/"))

    def _fits(self, checkpoint: Checkpoint, newest: CheckpointManifest) -> bool:
        known = self._fitting.get(checkpoint.folder)
        if known is None:
            found = read_checkpoint(self._storage, checkpoint)
            known = not isinstance(found, str) and checkpoint_mismatch(found, newest.spec_hash, newest.data_hash,
                                                                       newest.base_hash) is None
            self._fitting[checkpoint.folder] = known
        return known

    def newest(self, identity: Identity, folder: Path, step: int | None = None, without: Collection[str] = ()
               ) -> CheckpointManifest | None:
        """Fetch the newest complete checkpoint that fits, checked file by file, into `folder`; None if there is none.

        A checkpoint that does not fit or is damaged is not used, and a note says why. The training time of an earlier
        job does not count as this job's. If the job names an earlier one and no checkpoint fits, `not_resumed` says so.

        Args:
            identity: the digests that it must have.
            folder: where its files go.
            step: its step; None for any.
            without: files that are not needed.

        Raises:
            MissingInput: no checkpoint fits, and the job asks to resume from an earlier one.
        """
        faults: list[str] = []
        for checkpoint in reversed(complete_checkpoints(self._storage, self._prefix, self._source.earlier)):
            if step is not None and checkpoint.step != step:
                continue
            found = self._fetch(checkpoint, identity, folder, without)
            if isinstance(found, CheckpointManifest):
                self.complete_step = found.step
                if not checkpoint.own:
                    found = self._earlier = found.model_copy(update={"trained_seconds": 0.0})
                return found
            self._note(f"the checkpoint {checkpoint.folder} is not used: {found}")
            faults.append(f"{checkpoint.folder}: {found}")
        if self._source.policy.resume_from and step is None:
            self.not_resumed = no_checkpoint(self._source.policy, faults)
        return None

    def _fetch(self, checkpoint: Checkpoint, identity: Identity, folder: Path, without: Collection[str]
               ) -> CheckpointManifest | str:
        manifest = read_checkpoint(self._storage, checkpoint)
        if isinstance(manifest, str):
            return manifest
        if fault := checkpoint_mismatch(manifest, identity.spec_hash, identity.data_hash, identity.base_hash):
            return fault
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fault = next((fault for file in manifest.files if file.path not in without
                      and (fault := self._fetch_file(checkpoint, file, folder))), None)
        if fault:
            self._broken.add(checkpoint.folder)
            return fault
        for name in sorted(identity.environment):
            if manifest.environment.get(name) != identity.environment[name]:
                self._note(f"resuming on another {name} ({identity.environment[name]}, before "
                           f"{manifest.environment.get(name)}): the result is not the same bit for bit")
        return manifest

    def _fetch_file(self, checkpoint: Checkpoint, file: PublishedFile, folder: Path) -> str | None:
        """Fetch a file; return what is wrong with it, or None."""
        path = below(folder, file.path)
        try:
            self._storage.get_file(f"{checkpoint.folder}/{file.path}", path)
        except (MissingInput, BadConfig):
            return f"{file.path} is missing"
        # Checked before anything reads it: trainer state is opened only if its digest is right.
        return None if file_digest(path) == file.sha256 else f"{file.path} is damaged"
