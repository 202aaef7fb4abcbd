"""Reading the rows of one file: jsonl, json, csv, parquet. A bad row is an error with its number, never skipped."""

from __future__ import annotations

from pathlib import Path

from finetune_api.spec.dataset import DataFormat

from finetune_trainer.data.formats.arrow_rows import read_parquet, rows_of
from finetune_trainer.data.formats.csv_rows import read_csv
from finetune_trainer.data.formats.json_rows import read_json
from finetune_trainer.data.rows import Columns
from finetune_trainer.errors import BadConfig

__all__ = ["ENDINGS", "format_of", "read_rows", "rows_of"]

ENDINGS = {".jsonl": DataFormat.JSONL, ".ndjson": DataFormat.JSONL, ".json": DataFormat.JSON, ".csv": DataFormat.CSV,
           ".tsv": DataFormat.CSV, ".parquet": DataFormat.PARQUET}
"""The format for the ending of a file's name."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def format_of(name: str, given: DataFormat | None) -> DataFormat:
    """The format of a file: as given, or by the ending of its name without `.gz` and the like.

    Raises:
        BadConfig: no format is given, and the ending is unknown.
    """
    path = Path(name)
    known = given or ENDINGS.get((path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path).suffix.lower())
    if known is None:
        raise BadConfig(f"spec.dataset.source: the ending of {path.name!r} is not that of a known format; write "
                        f"spec.dataset.format: one of {', '.join(DataFormat)}")
    return known


def read_rows(path: Path, data_format: DataFormat, split: str | None = None) -> list[Columns]:
    """All rows of a file; JSON may hold them in a list named after the split.

    Raises:
        BadData: the file is not of this format; the message names the line or row.
    """
    if data_format == DataFormat.CSV:
        return read_csv(path)
    if data_format == DataFormat.PARQUET:
        return read_parquet(path)
    return read_json(path, split)
