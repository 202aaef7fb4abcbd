"""Reading rows out of one file: jsonl, json, csv, parquet. A bad row is named, never skipped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.spec.dataset import DataFormat

from finetune_trainer.data.rows import Columns
from finetune_trainer.errors import BadConfig, BadData

_ENDINGS = {".jsonl": DataFormat.JSONL, ".ndjson": DataFormat.JSONL, ".json": DataFormat.JSON, ".csv": DataFormat.CSV,
            ".parquet": DataFormat.PARQUET}


def format_of(name: str, given: DataFormat | None) -> DataFormat:
    """The format of a file, as given or by its name's ending.

    Raises:
        BadConfig: neither tells.
    """
    known = given or _ENDINGS.get(Path(name).suffix.lower())
    if known is None:
        raise BadConfig(f"spec.dataset.source: the ending of {name!r} names no format; write spec.dataset.format: "
                        f"{', '.join(DataFormat)}")
    return known


def read_rows(path: Path, data_format: DataFormat) -> list[Columns]:
    """All rows of a file.

    Raises:
        BadData: the file is not what its format says; the message names the line or row.
    """
    return _READERS[data_format](path)


def _jsonl(path: Path) -> list[Columns]:
    rows: list[Columns] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = _decode(line, f"{path.name} line {number}")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise BadData(f"{path.name} line {number}: not valid JSON: {error.msg} at character {error.pos + 1}; "
                              "write one JSON object a line") from error
            rows.append(_object(row, f"{path.name} line {number}"))
    return rows


def _json(path: Path) -> list[Columns]:
    text = _decode(path.read_bytes(), path.name)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadData(f"{path.name} line {error.lineno}: not valid JSON: {error.msg}") from error
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise BadData(f"{path.name}: write a list of objects, or an object with a list named data")
    return [_object(row, f"{path.name} row {number}") for number, row in enumerate(content, start=1)]


def _csv(path: Path) -> list[Columns]:
    reader = csv.DictReader(io.StringIO(_decode(path.read_bytes(), path.name), newline=""), strict=True)
    rows: list[Columns] = []
    try:
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise BadData(f"{path.name} row {number}: not as many cells as the header has "
                              f"({len(reader.fieldnames or ())})")
            rows.append(row)
    except csv.Error as error:
        raise BadData(f"{path.name} line {reader.line_num}: not valid CSV: {error}") from error
    return rows


def _parquet(path: Path) -> list[Columns]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Columns] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{path.name}: not a readable parquet file: {error}") from error
    return rows


def _decode(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = place if " line " in place else f"{place} line {line}"
        raise BadData(f"{where}: not UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8") from error


def _object(row: Any, place: str) -> Columns:
    if not isinstance(row, dict):
        raise BadData(f"{place}: a row must be a JSON object with columns, not {type(row).__name__}")
    return row


_READERS: dict[DataFormat, Callable[[Path], list[Columns]]] = {
    DataFormat.JSONL: _jsonl,
    DataFormat.JSON: _json,
    DataFormat.CSV: _csv,
    DataFormat.PARQUET: _parquet,
}
