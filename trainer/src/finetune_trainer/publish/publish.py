"""Publishes a result: first all files, then the manifest, which is written only once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from finetune_api.messages import Manifest, PublishedFile, Result, RunConfig, RunFigures
from finetune_api.messages.layout import CHECKPOINTS, MANIFEST, results_prefix
from finetune_api.status import PublishedAdapter

from finetune_trainer.clock import Clock
from finetune_trainer.errors import OutputNotWritable, TrainerError
from finetune_trainer.faults import reach
from finetune_trainer.hardware.device import package_versions
from finetune_trainer.publish.adoption import published_result, wanted, weights_of
from finetune_trainer.storage import Storage
from finetune_trainer.training.checkpoints import list_files
from finetune_trainer.training.complete_checkpoints import Identity


class Publication:
    """Writes the result of one attempt to the output: each file when it is ready, the manifest last and only once."""

    def __init__(self, storage: Storage, prefix: str, config: RunConfig) -> None:
        """
        Args:
            storage: the job's output.
            prefix: the job's folder there.
            config: the run configuration.
        """
        self._storage, self._prefix, self._config = storage, prefix, config
        self._target = results_prefix(config.attempt)
        self._files: dict[str, PublishedFile] = {}
        self._is_complete = False

    def add(self, folder: Path) -> None:
        """Upload the new files of a folder. Either all of them become part of the result, or, after an error, none.

        Raises:
            OutputNotWritable: a file could not be written.
        """
        new = list_files(folder, self._files)
        try:
            for file in new:
                self._storage.put_file(f"{self._prefix}/{self._target}/{file.path}", folder / file.path)
        except TrainerError:
            with suppress(TrainerError):
                self._storage.delete([f"{self._prefix}/{self._target}/{file.path}" for file in new])
            raise
        self._files |= {file.path: file for file in new}

    def finish(self, trained: str, identity: Identity, base: tuple[str, str | None],
               reached: tuple[Result, RunFigures], clock: Clock) -> Result:
        """Write the manifest, and return the published result with its adapter and manifest.

        If another attempt has published first, the result of that attempt is returned unchanged.

        Args:
            trained: the folder of the trained weights.
            identity: digests of spec, rows and base weights.
            base: the commit of the base model or the digest of its weights, and the digest of its description.
            reached: the result so far, and what it took.
            clock: gives the time.

        Raises:
            OutputNotWritable: the manifest could not be written.
        """
        reach("results")
        (base_revision, base_description), (result, figures) = base, reached
        config, storage, prefix = self._config, self._storage, self._prefix
        files = tuple(self._files[path] for path in sorted(self._files))
        result = result.model_copy(update={
            "adapter": self._adapter(files, trained, base_revision),
            "manifest": str(storage.root.join(prefix, MANIFEST)),
        })
        manifest = Manifest(
            namespace=config.namespace, name=config.name, uid=config.uid, attempt=config.attempt,
            spec_hash=identity.spec_hash, data_hash=identity.data_hash,
            base_model=str(config.spec.model.source), base_revision=base_revision,
            base_description=base_description, created=clock.now(),
            files=tuple(file.model_copy(update={"path": f"{self._target}/{file.path}"}) for file in files),
            result=result, figures=figures, packages=package_versions(),
            run=config.model_dump(mode="json", exclude_none=True),
        )
        if not storage.create(f"{prefix}/{MANIFEST}", manifest.model_dump_json(indent=2, exclude_none=True).encode()):
            earlier = published_result(storage, prefix, replace(
                wanted(config), data_hash=identity.data_hash, base_revision=base_revision,
                base_description=base_description))
            if earlier is None:
                raise OutputNotWritable(f"{storage.root.join(prefix, MANIFEST)} was removed while it was written; "
                                        "start the job again")
            return earlier
        self._is_complete = True
        return result

    def location(self, path: str) -> str | None:
        """The location of a published file; None if it was not uploaded, or if another attempt published first.

        Args:
            path: the file's path below the attempt's results.
        """
        if not self._is_complete or path not in self._files:
            return None
        return str(self._storage.root.join(self._prefix, self._target, path))

    def _adapter(self, files: Sequence[PublishedFile], trained: str, base_revision: str) -> PublishedAdapter:
        digest, size = weights_of(files, trained)
        return PublishedAdapter(
            uri=str(self._storage.root.join(self._prefix, self._target, trained)), sha256=digest, size_bytes=size,
            base_model=str(self._config.spec.model.source), base_revision=base_revision,
        )


def remove_checkpoints(storage: Storage, prefix: str) -> None:
    """Remove the checkpoints of a published job. An error is ignored: the result is already published."""
    try:
        storage.delete(storage.keys(f"{prefix}/{CHECKPOINTS}/"))
    except TrainerError:
        return
