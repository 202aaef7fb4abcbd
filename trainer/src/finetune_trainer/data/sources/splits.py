"""The rows of a job's splits: from a file, a folder of splits, a URL, or the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from finetune_api.spec.dataset import DataFormat, DatasetSpec
from finetune_api.spec.output import S3Spec
from finetune_api.values.uris import Uri

from finetune_trainer.data.formats import ENDINGS, format_of, read_rows
from finetune_trainer.data.rows import Columns, SourceRow, numbered_rows
from finetune_trainer.data.sources.hub import read_hub_split
from finetune_trainer.errors import BadConfig, BadData, MissingInput
from finetune_trainer.storage import open_storage
from finetune_trainer.storage.digests import file_digest
from finetune_trainer.storage.fetch import fetch

_PART = re.compile(r"-[0-9]+-of-(?P<of>[0-9]+)")
_COMPRESSED = re.compile(r"(?:\.gz|\.bz2|\.xz)$")


def read_splits(spec: DatasetSpec, s3: S3Spec | None, scratch: Path
                ) -> tuple[list[SourceRow], list[SourceRow] | None]:
    """The rows of the training split and of the evaluation split; None where the job names no evaluation split.

    Raises:
        MissingInput: the data set does not exist.
        BadConfig: it has no such split.
        BadData: a split has no rows.
    """
    learn = numbered_rows(_read(spec, spec.split, s3, scratch), spec.split)
    if spec.evaluation_split is None:
        return learn, None
    held_out = numbered_rows(_read(spec, spec.evaluation_split, s3, scratch), spec.evaluation_split)
    for rows, split in ((learn, spec.split), (held_out, spec.evaluation_split)):
        if not rows:
            raise BadData(f"spec.dataset: the {split} of {spec.source} has no rows")
    return learn, held_out


def _read(spec: DatasetSpec, split: str, s3: S3Spec | None, scratch: Path) -> list[Columns]:
    if spec.source.scheme == "hf":
        return read_hub_split(spec, split)
    files = _files(spec, split, s3)
    paths = [fetch(file, s3, scratch) for file in files]
    if spec.sha256:
        if len(paths) > 1:
            raise BadConfig(f"spec.dataset.sha256: it is the digest of one file, and {spec.source} matches "
                            f"{len(paths)} files; leave sha256 out")
        if (found := file_digest(paths[0])) != spec.sha256:
            raise BadData(f"spec.dataset.sha256: {spec.source} has the digest {found}, and the job says "
                          f"{spec.sha256}; fetch the file that the job was written for, or correct sha256")
    return [row for file, path in zip(files, paths, strict=True)
            for row in read_rows(path, format_of(file.path, spec.format), split)]


def _files(spec: DatasetSpec, split: str, s3: S3Spec | None) -> list[Uri]:
    """The files of a split: the source itself, the files that match its `*`, or the files of the split in a folder."""
    source = spec.source
    if not source.is_folder and ("*" not in source.path or source.scheme == "https"):
        return [source]
    folder, _, pattern = source.path.rpartition("/")
    root = Uri(source.scheme, source.authority, folder)
    names = _names(root, split if source.is_folder else pattern.partition("*")[0], s3)
    if source.is_folder:
        endings = tuple(ending for ending, known in ENDINGS.items() if spec.format in (None, known))
        for ending in endings:
            parts = re.compile(rf"{re.escape(split)}(?:-[0-9]+-of-[0-9]+)?{re.escape(ending)}(?:\.gz|\.bz2|\.xz)?")
            if found := [name for name in names if parts.fullmatch(name)]:
                return [root.join(name) for name in _all_parts(_once(found, source), split, source)]
        names = [f"{split}.{known}" for known in DataFormat if spec.format in (None, known)]
        raise MissingInput(f"spec.dataset.source: {source} contains none of {', '.join(names)}, and no parts such as "
                           f"{split}-00000-of-00002.{names[-1].rpartition('.')[2]}")
    found = [name for name in names if _matches(name, pattern)]
    if not found:
        raise MissingInput(f"spec.dataset.source: no file matches {source}")
    return [root.join(name) for name in _once(found, source)]


def _all_parts(names: Sequence[str], split: str, source: Uri) -> Sequence[str]:
    """The files of a split in a folder, after a check that all of its parts are there.

    Raises:
        MissingInput: a part is missing.
        BadConfig: the folder holds the split twice, for example whole and in parts.
    """
    shared = {int(found["of"]) if (found := _PART.search(name)) else 1: name for name in names}
    if len(shared) > 1:
        one, other, *_ = shared.values()
        raise BadConfig(f"spec.dataset.source: {source} holds the split {split} twice, as {one} and as {other}; remove "
                        "the files of one of them")
    [count] = shared
    if len(names) < count:
        raise MissingInput(f"spec.dataset.source: {source} holds {len(names)} of the {count} parts of the split "
                           f"{split}: {', '.join(names[:5])}; copy all parts there")
    return names


def _once(names: Sequence[str], source: Uri) -> Sequence[str]:
    """Names of files, after a check that none is the compressed copy of another one.

    Raises:
        BadConfig: one is a compressed copy.
    """
    by_plain_name: dict[str, str] = {}
    for name in names:
        twin = by_plain_name.setdefault(_COMPRESSED.sub("", name), name)
        if twin != name:
            raise BadConfig(f"spec.dataset.source: {source} matches both {twin} and {name}, so their rows would be "
                            "read twice; remove one of them")
    return names


def _names(folder: Uri, start: str, s3: S3Spec | None) -> list[str]:
    """The files of a folder whose names begin with `start`, sorted."""
    if folder.scheme != "file":
        return [key for key in open_storage(folder, s3).keys(start) if "/" not in key]
    path = folder.local_path()
    return sorted(file.name for file in path.iterdir() if file.is_file()) if path.is_dir() else []


def _matches(name: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def local_files(source: Uri) -> list[Path]:
    """The files that a `file://` location matches: itself, all files of its folder, or those that match its `*`."""
    path = source.local_path()
    folder, pattern = (path, "*") if path.is_dir() else (path.parent, path.name)
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if file.is_file() and (file == path or _matches(file.name, pattern)))
