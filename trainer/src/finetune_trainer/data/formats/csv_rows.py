"""CSV as spreadsheets and programs write it: commas, semicolons, tabs or bars, a `sep=` line, cells of any length."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.data.formats.decoding import decode, open_bytes
from finetune_trainer.data.rows import Columns
from finetune_trainer.errors import BadData

_DELIMITERS = ",;\t|"


def read_csv(path: Path) -> list[Columns]:
    """All rows of a CSV file. Every cell is a text.

    Raises:
        BadData: the file is not valid CSV; the message names the line.
    """
    with open_bytes(path) as file:
        text = decode(file.read(), path.name)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    first, _, rest = text.partition("\n")
    skipped = 0
    if first[:4].lower() == "sep=" and len(first.strip()) == 5:
        delimiter, text, skipped = first.strip()[4], rest, 1
    else:
        delimiter = _delimiter(first)
    padded = f"{delimiter} " in text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=padded, strict=True)
    rows: list[Columns] = []
    header: list[str] | None = None
    for line, cells in _records(reader, path.name, skipped):
        if header is None:
            header = _header([cell.strip() for cell in cells], f"{path.name} line {line}")
            continue
        extra = cells[len(header):]
        if len(cells) < len(header) or any(cell.strip() for cell in extra):
            raise BadData(f"{path.name} row {len(rows) + 1}: line {line} has {len(cells)} cells; the header has "
                          f"{len(header)}. Put cells that contain {delimiter!r} or a line break in double quotes")
        rows.append({name: cell for name, cell in zip(header, cells, strict=False) if name or cell})
    return rows


def _delimiter(header: str) -> str:
    """The character between the header's names: the most frequent one outside of quotes, by default a comma."""
    bare = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=lambda character: (bare.count(character), -_DELIMITERS.index(character)))


def _header(names: list[str], location: str) -> list[str]:
    while names and not names[-1]:
        names.pop()  # A delimiter at the line's end.
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise BadData(f"{location}: two columns have the name {twice!r}; rename one of them")
    return names


def _records(reader: Iterator[list[str]], name: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the number of its first line."""
    while True:
        line = reader.line_num + 1 + skipped  # type: ignore[attr-defined]
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadData(f"{name} line {line}: not valid CSV: {error}; within a cell in double quotes, write a double "
                          'quote twice ("")') from error
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield line, cells
