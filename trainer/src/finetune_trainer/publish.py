"""Publishing a result: every file first, the manifest last and only once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finetune_api.layout import CHECKPOINTS, MANIFEST, results_prefix
from finetune_api.messages import Manifest, PublishedFile, Result, RunConfig
from finetune_api.status import PublishedAdapter

from finetune_trainer.adoption import published_result, wanted, weights_of
from finetune_trainer.clock import Clock
from finetune_trainer.errors import TrainerError
from finetune_trainer.faults import reach
from finetune_trainer.model.device import package_versions
from finetune_trainer.storage import Storage
from finetune_trainer.training.checkpoints import Identity, list_files


def publish(storage: Storage, prefix: str, folder: Path, trained: str, config: RunConfig, identity: Identity,
            base_revision: str, result: Result, clock: Clock) -> Result:
    """Upload `folder` as this attempt's result; the result as published, with adapter and manifest filled in.

    Where another attempt was first, its result is returned, and nothing of it is changed.

    Args:
        storage: the job's output.
        prefix: the job's folder there.
        folder: what to upload.
        trained: the folder in it that holds what was trained.
        config: the run configuration.
        identity: digests of what it was trained on.
        base_revision: the base model's commit, or the digest of its weights.
        result: the result so far.
        clock: the time.

    Raises:
        OutputNotWritable: a file could not be written.
    """
    target = results_prefix(config.attempt)
    files = list_files(folder)
    for file in files:
        storage.put_file(f"{prefix}/{target}/{file.path}", folder / file.path)
    reach("results")
    result = result.model_copy(update={
        "adapter": _adapter(storage, prefix, target, trained, files, config, base_revision),
        "manifest": str(storage.root.join(prefix, MANIFEST)),
    })
    manifest = Manifest(
        namespace=config.namespace, name=config.name, uid=config.uid, attempt=config.attempt,
        spec_hash=identity.spec_hash, data_hash=identity.data_hash,
        base_model=str(config.spec.model.source), base_revision=base_revision, created=clock.now(),
        files=tuple(file.model_copy(update={"path": f"{target}/{file.path}"}) for file in files),
        result=result, packages=package_versions(), run=config.model_dump(mode="json", exclude_none=True),
    )
    if not storage.create(f"{prefix}/{MANIFEST}", manifest.model_dump_json(indent=2, exclude_none=True).encode()):
        earlier = published_result(storage, prefix, replace(
            wanted(config), data_hash=identity.data_hash, base_revision=base_revision))
        assert earlier is not None
        return earlier
    return result


def remove_checkpoints(storage: Storage, prefix: str) -> None:
    """Remove what a published job no longer needs. A failure is no reason to fail: the result is there."""
    try:
        storage.delete(storage.keys(f"{prefix}/{CHECKPOINTS}/"))
    except TrainerError:
        return


def _adapter(storage: Storage, prefix: str, target: str, trained: str, files: tuple[PublishedFile, ...],
             config: RunConfig, base_revision: str) -> PublishedAdapter:
    digest, size = weights_of(files, trained)
    return PublishedAdapter(
        uri=str(storage.root.join(prefix, target, trained)), sha256=digest, size_bytes=size,
        base_model=str(config.spec.model.source), base_revision=base_revision,
    )
