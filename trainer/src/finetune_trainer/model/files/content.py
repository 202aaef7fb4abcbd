"""Links in a model's folder, and digests of a model's files that show when the model was replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from finetune_api.spec.model import ModelSpec
from finetune_api.spec.output import S3Spec
from finetune_api.values.paths import below

from finetune_trainer.errors import BadConfig
from finetune_trainer.storage import open_storage
from finetune_trainer.storage.digests import file_digest
from finetune_trainer.storage.fetch import fetch

_WEIGHTS = ".safetensors"
_DESCRIBES = ("config.json", "generation_config.json", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json",
              "added_tokens.json", "chat_template*", "*.model")


def check_links(folder: Path, name: str, boundary: Path | None = None) -> None:
    """Refuse a model's folder with a link that leads out of it: `merged` would publish the link's target.

    Args:
        folder: the model's folder.
        name: the model's location, for messages.
        boundary: the folder that links to files may not leave, such as the claim; by default the model's folder. In the
            hub's cache it is the model's cache folder: a snapshot's files are links to its blobs.

    Raises:
        BadConfig: there is such a link.
    """
    if boundary is None:
        boundary = folder.parent.parent if folder.parent.name == "snapshots" else folder
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            try:
                below(folder, path.relative_to(folder).as_posix(), folder if path.is_dir() else boundary)
            except ValueError as error:
                raise BadConfig(f"spec.model.source: {name}: {error}; replace the link by the file itself"
                                ) from error


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of the digests of a model's files, by their names."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(name.encode())
        whole.update(digests[name].encode())
    return whole.hexdigest()


def folder_digest(folder: Path) -> str:
    """The digest of the weights in a folder."""
    return digest_of({path.name: file_digest(path) for path in folder.glob(f"*{_WEIGHTS}")})


def content_digest(spec: ModelSpec, s3: S3Spec | None, scratch: Path) -> str:
    """The digest of a model's weights, which `find_model` uses as revision. The weights are read and not stored.

    Raises:
        MissingInput: the weights can't be read.
        ValueError: it is a model of the hub, which has a commit instead.
    """
    source = spec.source
    if source.scheme == "hub":
        raise ValueError(f"{source} has a commit")
    if source.path.lower().endswith(".gguf"):
        return file_digest(fetch(source, s3, scratch))
    if source.scheme == "file":
        return folder_digest(source.local_path())
    storage = open_storage(source, s3)
    names = [key for key in storage.keys("") if "/" not in key and key.endswith(_WEIGHTS)]
    found = {name: storage.digest(name) for name in names}
    return digest_of({name: file.sha256 for name, file in found.items() if file})


def description_digest(spec: ModelSpec, s3: S3Spec | None) -> str | None:
    """The digest of a model's configuration, tokenizer and chat template.

    None where the revision covers these files too: for a model of the hub and for a GGUF file.

    Raises:
        MissingInput: the files can't be read.
    """
    source = spec.source
    if source.scheme == "hub" or source.path.lower().endswith(".gguf"):
        return None
    if source.scheme == "file":
        paths = {path.name: path for path in source.local_path().glob("*") if path.is_file()}
        return digest_of({name: file_digest(path) for name, path in paths.items() if _describes(name)})
    storage = open_storage(source, s3)
    found = {key: storage.digest(key) for key in storage.keys("") if _describes(key)}
    return digest_of({key: file.sha256 for key, file in found.items() if file})


def _describes(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in _DESCRIBES)
