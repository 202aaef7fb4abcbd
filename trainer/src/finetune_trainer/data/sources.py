"""Where rows come from: a file, a folder of splits, a URL, or the hub."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_api.spec.dataset import DataFormat, DatasetSpec
from finetune_api.spec.output import S3Spec
from finetune_api.uris import Uri

from finetune_trainer.data.download import download
from finetune_trainer.data.formats import format_of, read_rows
from finetune_trainer.data.rows import Columns, SourceRow, places
from finetune_trainer.digests import file_digest
from finetune_trainer.errors import BadConfig, BadData, MissingInput, first_line
from finetune_trainer.storage import file_at


def read_splits(spec: DatasetSpec, s3: S3Spec | None, seed: int, scratch: Path
                ) -> tuple[list[SourceRow], list[SourceRow]]:
    """The rows to learn from and the rows held out, disjoint.

    Raises:
        MissingInput: the data set isn't there.
        BadConfig: it has no such split.
        BadData: it has no rows, or not enough to hold some out.
    """
    if spec.evaluation_split is not None:
        learn = places(_read(spec, spec.split, s3, scratch), spec.split)
        held_out = places(_read(spec, spec.evaluation_split, s3, scratch), spec.evaluation_split)
    else:
        everything = places(_read(spec, spec.split, s3, scratch), spec.split)
        learn, held_out = hold_out(everything, spec.evaluation_fraction or 0.0, seed)
    for rows, split in ((learn, spec.split), (held_out, spec.evaluation_split or "held-out part")):
        if not rows:
            raise BadData(f"spec.dataset: the {split} of {spec.source} has no rows")
    return learn, held_out


def hold_out(rows: Sequence[SourceRow], fraction: float, seed: int) -> tuple[list[SourceRow], list[SourceRow]]:
    """Split rows by chance, at least one on either side where there are two; both keep their order."""
    if len(rows) < 2:
        raise BadData(f"the data set has {len(rows)} rows: at least 2 are needed, one to learn from and one held out")
    count = min(len(rows) - 1, max(1, round(len(rows) * fraction)))
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return ([row for index, row in enumerate(rows) if index not in chosen],
            [row for index, row in enumerate(rows) if index in chosen])


def _read(spec: DatasetSpec, split: str, s3: S3Spec | None, scratch: Path) -> Sequence[Columns]:
    if spec.source.scheme == "hf":
        return _from_hub(spec, split)
    if spec.source.is_folder:
        formats = [spec.format] if spec.format else list(DataFormat)
        for data_format in formats:
            try:
                path = fetch(spec.source.join(f"{split}.{data_format}"), s3, scratch)
            except MissingInput:
                continue
            return read_rows(path, data_format)
        names = ", ".join(f"{split}.{data_format}" for data_format in formats)
        raise MissingInput(f"spec.dataset.source: {spec.source} has none of {names}")
    path = fetch(spec.source, s3, scratch)
    if spec.sha256 and (found := file_digest(path)) != spec.sha256:
        raise BadData(f"spec.dataset.sha256: {spec.source} has the digest {found}, not {spec.sha256}: it is another "
                      "file than the one the job was written for")
    return read_rows(path, format_of(spec.source.path, spec.format))


def fetch(source: Uri, s3: S3Spec | None, scratch: Path) -> Path:
    """A local path with the content of a single file; what is local already is not copied.

    Raises:
        MissingInput: it isn't there or can't be read.
    """
    if source.scheme == "https":
        return download(str(source), scratch)
    if source.scheme == "file":
        path = source.local_path()
        if not path.is_file():
            raise MissingInput(f"{source}: no such file")
        if not os.access(path, os.R_OK):
            raise MissingInput(f"{source}: may not be read by this user")
        return path
    storage, key = file_at(source, s3)
    path = scratch / "inputs" / hashlib.sha256(str(source).encode()).hexdigest()[:16] / Path(key).name
    storage.get_file(key, path)
    return path


def _from_hub(spec: DatasetSpec, split: str) -> Sequence[Columns]:
    """Rows of a hub data set, by the `datasets` library; script data sets are read from their parquet conversion."""
    import datasets

    name, _, config = spec.source.path.partition("/")
    repository = f"{spec.source.authority}/{name}"
    try:
        builder = datasets.load_dataset_builder(repository, config or None, revision=spec.revision,
                                                token=os.environ.get("HF_TOKEN"))
        _refuse_files_elsewhere(builder.config.data_files or {}, spec.source)
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=split)
    except ValueError as error:
        raise BadConfig(f"spec.dataset: {spec.source}: {first_line(error)}") from error
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise BadConfig(f"spec.dataset.source: {spec.source} is published as a script, which is not run; write "
                        "revision: refs/convert/parquet") from error
    except (OSError, ConnectionError) as error:
        raise MissingInput(f"spec.dataset.source: {spec.source} can't be loaded from the hub: {first_line(error)}"
                           ) from error
    return list(loaded)


def _refuse_files_elsewhere(files: Mapping[str, Sequence[str]], source: Uri) -> None:
    """Refuse files beside the hub: a data set's card can name any path of this machine, and any address.

    Raises:
        BadConfig: there are such.
    """
    for file in (str(file) for several in files.values() for file in several):
        # What is in an archive stands before it.
        if not file.rpartition("::")[2].startswith("hf://"):
            raise BadConfig(f"spec.dataset.source: the card of {source} names the file {file[:200]}, which is not on "
                            "the hub; write another data set, or this file's own location")
