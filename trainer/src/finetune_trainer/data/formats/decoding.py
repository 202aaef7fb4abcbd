"""From a file's bytes to text. The first bytes tell compression and UTF-16; any other text is UTF-8."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finetune_trainer.errors import BadData

_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\x00": lzma.LZMAFile}
_FOREIGN = {b"PK\x03\x04": "a zip archive (or a spreadsheet)", b"\x28\xb5\x2f\xfd": "compressed with zstd",
            b"7z\xbc\xaf": "a 7z archive", b"\xd0\xcf\x11\xe0": "an old spreadsheet"}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
          codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed if it is compressed.

    Raises:
        BadData: the compression is not supported, or the file is damaged.
    """
    with path.open("rb") as file:
        start = file.read(8)
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise BadData(f"{path.name}: it is {what}; unpack it. jsonl, json, csv, tsv and parquet are read, plain or "
                          "as .gz, .bz2 or .xz")
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    try:
        with (opener(path) if opener else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadData(f"{path.name}: the compressed file is damaged: {error}") from error
    except OSError as error:
        if opener is None or error.errno is not None:
            raise
        raise BadData(f"{path.name}: the compressed file is damaged: {error}") from error


def encoding_of(start: bytes) -> str:
    """The encoding of a text, by its first bytes."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if len(start) >= 2 and start[1] == 0 != start[0]:
        return "utf-16-le"
    if len(start) >= 2 and start[0] == 0 != start[1]:
        return "utf-16-be"
    return "utf-8"


def decode(content: bytes, location: str, line: int | None = None) -> str:
    """Bytes as text.

    Args:
        content: the bytes.
        location: the name of the file, for the message.
        line: the number of the line, if the bytes are one line.

    Raises:
        BadData: the bytes are not valid in the encoding of the file; the message names the line.
    """
    encoding = encoding_of(content[:4]) if line in (None, 1) else "utf-8"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        at = line or content.count(b"\n", 0, error.start) + 1
        name = encoding.removesuffix("-sig").upper()
        raise BadData(f"{location} line {at}: not {name} (byte {content[error.start]:#04x}); save the file as UTF-8, "
                      "for example with `iconv -f CP949 -t UTF-8` if it is in CP949") from error
