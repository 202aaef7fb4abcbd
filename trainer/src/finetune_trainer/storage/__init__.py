"""Storage for results, checkpoints, data and models: one interface for folders and for S3."""

from __future__ import annotations

from finetune_api.spec.output import S3Spec
from finetune_api.values.uris import Uri

from finetune_trainer.errors import BadConfig
from finetune_trainer.storage.interface import Storage
from finetune_trainer.storage.local import LocalStorage, mounted_claim
from finetune_trainer.storage.probe import as_output, probe
from finetune_trainer.storage.upload import BackgroundUploader

__all__ = ["BackgroundUploader", "LocalStorage", "Storage", "as_output", "file_at", "mounted_claim", "open_storage",
           "probe"]


def open_storage(root: Uri, s3: S3Spec | None) -> Storage:
    """The storage at a location. Nothing is read or written yet.

    Raises:
        BadConfig: the location is of another kind, or its claim is not mounted.
    """
    if root.scheme == "file":
        return LocalStorage(root, root.local_path())
    if root.scheme == "pvc":
        claim = mounted_claim(root)
        return LocalStorage(root, claim / root.path, boundary=claim)
    if root.scheme == "s3":
        # Imported here: a job on files needs no boto3.
        from finetune_trainer.storage.s3 import S3Storage

        return S3Storage(root, s3)
    raise BadConfig(f"{root}: this kind of location can't be used here; write s3://, pvc:// or, with `finetune run`, "
                    "file://")


def file_at(location: Uri, s3: S3Spec | None) -> tuple[Storage, str]:
    """The storage of a single file, and the file's key in it."""
    folder, _, name = location.path.rpartition("/")
    return open_storage(Uri(location.scheme, location.authority, folder), s3), name
