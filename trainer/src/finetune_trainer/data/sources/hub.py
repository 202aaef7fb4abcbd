"""Data sets of the Hugging Face hub, by the `datasets` library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from finetune_api.spec.dataset import DatasetSpec
from finetune_api.values.uris import Uri

from finetune_trainer.data.formats import rows_of
from finetune_trainer.data.rows import Columns
from finetune_trainer.errors import BadConfig, BadData, MissingInput, first_line


def read_hub_split(spec: DatasetSpec, split: str) -> list[Columns]:
    """The rows of a split of a hub data set. Its scripts are never run.

    Raises:
        BadConfig: it has no such configuration or split, is published as a script, or names files outside of the hub.
        BadData: its files can't be read as one table.
        MissingInput: it can't be fetched.
    """
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
        raise BadConfig(f"spec.dataset.source: {spec.source} is published as a script, and scripts are not run; write "
                        "spec.dataset.revision: refs/convert/parquet") from error
    except (OSError, ConnectionError) as error:
        raise MissingInput(f"spec.dataset.source: {spec.source} can't be loaded from the hub: {first_line(error)}"
                           ) from error
    except datasets.exceptions.DatasetsError as error:
        # The message itself is often "An error occurred while generating the dataset"; the reason is in its cause.
        cause = error.__cause__ or error
        if isinstance(cause, OSError):
            raise MissingInput(f"spec.dataset.source: {spec.source} can't be loaded from the hub: {first_line(cause)}"
                               ) from error
        raise BadData(f"spec.dataset.source: the files of {spec.source} can't be read as one table: "
                      f"{first_line(cause)}; name one of its configurations (hf://owner/name/config), a revision whose "
                      "files have the same columns, or a file of your own") from error
    return rows_of(loaded.with_format("arrow")[:], str(spec.source))


def _refuse_files_elsewhere(files: Mapping[str, Sequence[str]], source: Uri) -> None:
    """Refuse files outside of the hub: the card of a data set can name any path of this machine, and any address.

    Raises:
        BadConfig: the card names such a file.
    """
    for file in (str(file) for several in files.values() for file in several):
        # The path within an archive stands before the archive.
        if not file.rpartition("::")[2].startswith("hf://"):
            raise BadConfig(f"spec.dataset.source: the card of {source} names the file {file[:200]}, which is not on "
                            "the hub; write another data set, or the location of this file")
