"""Arrow tables as rows of plain data: parquet files, and the hub's data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.formats.decoding import open_bytes
from finetune_trainer.data.rows import Columns
from finetune_trainer.errors import BadData

if TYPE_CHECKING:
    import pyarrow

Convert = Callable[[Any], Any]


def read_parquet(path: Path) -> list[Columns]:
    """All rows of a parquet file.

    Raises:
        BadData: the file can't be read; the message names the column where one is at fault.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with open_bytes(path) as file:
            table = pyarrow.parquet.ParquetFile(file).read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BadData(f"{path.name}: not a readable parquet file: {str(error).splitlines()[0]}") from error
    return rows_of(table, path.name)


def rows_of(table: pyarrow.Table, name: str) -> list[Columns]:
    """The rows of an Arrow table.

    A float32 becomes the shortest decimal number that is the same float32: 1.1, not 1.100000023841858.

    Raises:
        BadData: two columns have the same name, or a value can't be read.
    """
    twice = next((column for column in table.column_names if table.column_names.count(column) > 1), None)
    if twice is not None:
        raise BadData(f"{name}: two columns have the name {twice!r}; rename one of them")
    columns = {column: _values(table.column(column), f"{name}: column {column}") for column in table.column_names}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _values(column: pyarrow.ChunkedArray, location: str) -> list[Any]:
    import pyarrow

    try:
        values: list[Any] = column.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError, ImportError) as error:
        raise BadData(f"{location}, row {_first_fault(column)}: a value of type {column.type} can't be read: "
                      f"{str(error).splitlines()[0]}") from error
    convert = _conversion(column.type)
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _first_fault(column: pyarrow.ChunkedArray) -> int:
    for number, value in enumerate(column, start=1):
        try:
            value.as_py()
        except Exception:
            return number
    return 1


def _conversion(kind: pyarrow.DataType) -> Convert | None:
    """The function that converts values of a type to plain data; None where they are plain data."""
    from pyarrow import types

    if types.is_float32(kind) or types.is_float16(kind):
        return _shortest(16 if types.is_float16(kind) else 32)
    if types.is_map(kind):
        item = _conversion(kind.item_type)
        return lambda pairs: {str(key): item(value) if item and value is not None else value for key, value in pairs}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _conversion(kind.value_type)
        return inner and (lambda values: [None if value is None else inner(value) for value in values])
    if types.is_dictionary(kind):
        return _conversion(kind.value_type)
    if types.is_struct(kind):
        fields = {field.name: conversion for field in kind if (conversion := _conversion(field.type))}
        return (lambda record: {name: fields[name](value) if name in fields and value is not None else value
                                for name, value in record.items()}) if fields else None
    return None


def _shortest(bits: int) -> Convert:
    import numpy

    narrow = numpy.float16 if bits == 16 else numpy.float32
    return lambda value: float(str(narrow(value)))
