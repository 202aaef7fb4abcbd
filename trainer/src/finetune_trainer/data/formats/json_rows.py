"""JSON and JSON Lines. The content decides which it is, because files of one kind often have the other's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from finetune_trainer.data.formats.decoding import decode, encoding_of, open_bytes
from finetune_trainer.data.rows import Columns
from finetune_trainer.data.values import STRICT_DECODER, strict_json
from finetune_trainer.errors import BadData

_SAMPLE = '{"question": "…", "answer": "…"}'
_EACH_LINE = f"each line must be a JSON object with columns, such as {_SAMPLE}"


def read_json(path: Path, split: str | None = None) -> list[Columns]:
    """All rows of a JSON or JSON Lines file.

    If the first line is an object, each line is a row. Otherwise the file is one list, or one object with a list named
    `data` or like the split.

    Raises:
        BadData: the file is neither; the message names the line or the row.
    """
    with open_bytes(path) as file:
        lines = _lines(file, path.name)
        number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
        if not first.strip():
            return []
        if _is_object(first):
            rows = _json_lines(chain([(number, first)], lines), path.name)
            return _listed(rows[0], path.name, split) if len(rows) == 1 and ".jsonl" not in path.name else rows
        whole = "".join([first, *(line for _, line in lines)])
    try:
        content = strict_json(whole)
    except ValueError as error:
        if (kind := _kind_of_line(first)) is not None:
            raise BadData(f"{path.name} line {number}: it is {kind}; {_EACH_LINE}") from error
        if path.name.partition(".")[2].startswith(("jsonl", "ndjson")) and not first.lstrip().startswith("["):
            raise BadData(f"{path.name} line {number}: {_fault(first)}; write one JSON object a line") from error
        raise BadData(f"{path.name} {_place(error, whole, number)}: {error}") from error
    return _listed(content, path.name, split)


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Numbered lines. A file in UTF-16, or with carriage returns as line ends, is read as a whole."""
    start = file.readline(1 << 20)
    encoding = encoding_of(start[:4])
    if encoding.startswith(("utf-16", "utf-32")) or b"\r" in start.rstrip(b"\r\n"):
        text = decode(start + file.read(), name)
        yield from enumerate(re.findall(r"[^\n]*\n|[^\n]+", text.replace("\r\n", "\n").replace("\r", "\n")), start=1)
        return
    if not start.endswith(b"\n"):
        start += file.readline()
    for number, line in enumerate(chain([start], file), start=1):
        yield number, decode(line, name, number)


def _is_object(line: str) -> bool:
    """Whether the first line of a file is an object, or a damaged one."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        content = strict_json(line)
    except ValueError as error:
        # A line that ends in a brace is a damaged line of JSON Lines; else an object over several lines begins.
        return not isinstance(error.__cause__, json.JSONDecodeError) or line.rstrip().endswith("}")
    return isinstance(content, dict)


def _json_lines(lines: Iterator[tuple[int, str]], name: str) -> list[Columns]:
    rows: list[Columns] = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = strict_json(line)
        except ValueError as error:
            cure = "; write one JSON object a line" if isinstance(error.__cause__, json.JSONDecodeError) else ""
            raise BadData(f"{name} line {number}: {error}{cure}") from error
        rows.append(_object(row, f"{name} line {number}"))
    return rows


def _listed(content: Any, name: str, split: str | None) -> list[Columns]:
    found_value = content
    if isinstance(content, dict):
        found = _rows_in(content, split)
        if found is None and content and all(isinstance(value, dict) for value in content.values()):
            raise BadData(f"{name}: it contains columns instead of rows, as pandas writes by default; write "
                          "df.to_json(orient='records', lines=True)")
        content = found
    if not isinstance(content, list):
        raise BadData(f"{name}: it is {_kind(found_value)}; it must be a list of objects, or an object with a list "
                      f"named data{f' or {split}' if split else ''}")
    if ".jsonl" in name and content and not isinstance(content[0], dict):
        content = [_object(content, f"{name} line 1")]
    return [_object(row, f"{name} row {number}") for number, row in enumerate(content, start=1)]


def _rows_in(content: dict[str, Any], split: str | None) -> list[Any] | None:
    """The list of rows in an object; None where the object has no such list."""
    for name in (split, "data"):
        rows = content.get(name) if name else None
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            return rows
    return None


def _object(row: Any, location: str) -> Columns:
    if not isinstance(row, dict):
        raise BadData(f"{location}: it is {_kind(row)}; each row must be a JSON object with columns, such as {_SAMPLE}")
    return row


def _kind_of_line(line: str) -> str | None:
    """What a line is that is a whole JSON value but no object; None where it is neither."""
    try:
        value = strict_json(line)
    except ValueError:
        return None
    return None if isinstance(value, dict) else _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return {list: "a list", str: "a text", dict: "an object", type(None): "null"}.get(type(value), "a number")


def _fault(line: str) -> str:
    try:
        strict_json(line)
    except ValueError as error:
        return str(error)
    return "not valid JSON"


def _place(error: ValueError, text: str, first_line: int) -> str:
    """The position of a file's error: its line where that is known, else the first row that can't be read."""
    if isinstance(error.__cause__, json.JSONDecodeError):
        return f"line {first_line + text.count(chr(10), 0, error.__cause__.pos)}"
    position, number = text.find("[") + 1, 0
    while position:
        number += 1
        position = len(text) - len(text[position:].lstrip(" \t\r\n,"))
        try:
            _, position = STRICT_DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
    return f"row {number}"
