"""Data files as people write them: read whatever their dialect, or refused with the place and the cure."""

import bz2
import datetime
import decimal
import gzip
import json
import lzma

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.spec.dataset import DataFormat
from finetune_api.values.uris import Uri
from finetune_trainer.data.formats import format_of, read_rows
from finetune_trainer.data.sources import hub
from finetune_trainer.data.sources.splits import local_files, read_splits
from finetune_trainer.errors import BadConfig, BadData, MissingInput

from tests.models import tiny_job

TWO = [{"q": "문 1", "a": "x"}, {"q": "q2", "a": "y, z"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TWO)


def _read(folder, name, content, split=None):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [dict(row) for row in read_rows(path, format_of(name, None), split)]


@pytest.mark.parametrize(("name", "content"), [
    ("rows.json", LINES),
    ("rows.jsonl", json.dumps(TWO)),
    ("rows.jsonl", json.dumps(TWO, indent=2)),
    ("rows.json", json.dumps({"version": 1, "data": TWO})),
    ("rows.json", json.dumps({"train": TWO, "test": []})),
    ("rows.jsonl", "\ufeff" + LINES.replace("\n", "\r\n")),
    ("rows.jsonl", LINES.replace("\n", "\r")),
    ("rows.jsonl", LINES.encode("utf-16")),
    ("rows.jsonl", LINES.encode("utf-16-le")),
    ("rows.jsonl.gz", gzip.compress(LINES.encode())),
    ("rows.jsonl", gzip.compress(LINES.encode())),
    ("rows.json.bz2", bz2.compress(json.dumps(TWO).encode())),
    ("rows.jsonl.xz", lzma.compress(LINES.encode())),
    ("rows.csv", 'q,a\n문 1,x\nq2,"y, z"\n'),
    ("rows.csv", "q;a\n문 1;x\nq2;y, z\n"),
    ("rows.tsv", "q\ta\n문 1\tx\nq2\ty, z\n"),
    ("rows.csv", 'q, a\n문 1, x\nq2, "y, z"\n'),
    ("rows.csv", 'q,a\n문 1,x,\nq2,"y, z",\n'),
    ("rows.csv", "sep=;\nq;a\n문 1;x\nq2;y, z\n"),
    ("rows.csv", 'q,a\r\n문 1,x\r\n\r\nq2,"y, z"\r\n'.encode("utf-16")),
], ids=["jsonl named json", "list named jsonl", "list over lines", "data", "split", "mark and CRLF", "CR", "UTF-16",
        "UTF-16 without mark", "gz", "gz by content", "bz2", "xz", "csv", "semicolon", "tsv", "header with blanks",
        "trailing comma", "sep line", "csv in UTF-16"])
def test_the_same_rows_are_read_from_every_dialect(tmp_path, name, content):
    assert _read(tmp_path, name, content, "train") == TWO


@pytest.mark.parametrize(("name", "content", "words"), [
    ("rows.jsonl", '{"a": 1}\n{"a": NaN}\n', "rows.jsonl line 2: NaN is not a JSON value; write null"),
    ("rows.json", '[{"a": 1}, {"a": -Infinity}]', "rows.json row 2: -Infinity is not a JSON value"),
    ("rows.jsonl", "[1, 2]\n[3, 4]\n", "rows.jsonl line 1: it is a list; each line must be a JSON object with columns"),
    ("rows.jsonl", '"a"\n"b"\n', "rows.jsonl line 1: it is a text; each line must be"),
    ("rows.json", "[1, 2]\n[3, 4]\n", "rows.json line 1: it is a list; each line must be a JSON object with columns"),
    ("rows.jsonl", '{"a": 1}\n[3, 4]\n', "rows.jsonl line 2: it is a list; each row must be"),
    ("rows.jsonl", '{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', "rows.jsonl line 2: the key 'a' stands .* 2 times"),
    ("rows.json", '[{"a": 1}, {"a": {"b": 1, "b": 2}}]', "rows.json row 2: the key 'b' stands in an object 2 times"),
    ("rows.jsonl", '{"a": 1e999}\n', "rows.jsonl line 1: the number 1e999 is larger"),
    ("rows.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}\n", "rows.jsonl line 2: a number of more than 4300 digits"),
    ("rows.jsonl", '{"a": 1}\n{"a": ' + "[" * 9000 + "]" * 9000 + "}\n", "rows.jsonl line 2: nested too deeply"),
    ("rows.json", '[{"a": 1},\n' + '{"a": ' + "[" * 9000 + "]" * 9000 + "}]", "rows.json row 2: nested too deeply"),
    ("rows.json", json.dumps({"q": {"0": "x"}, "a": {"0": "y"}}), r"write df.to_json\(orient='records', lines=True\)"),
    ("rows.csv", "q,a\n질문,답\n".encode("cp949"), r"rows.csv line 2: not UTF-8 \(byte 0xc1\).*iconv -f CP949"),
    ("rows.csv", 'q,a\n"line\nbreak",x\none\n', "rows.csv row 2: line 4 has 1 cells; the header has 2"),
    ("rows.csv", 'q,a\nx,y\n"open,z\n', "rows.csv line 3: not valid CSV"),
    ("rows.csv", "q,a,a\n1,2,3\n", "rows.csv line 1: two columns have the name 'a'"),
    ("rows.jsonl", gzip.compress(LINES.encode())[:-9], "rows.jsonl: the compressed file is damaged"),
    ("rows.jsonl", b"PK\x03\x04....", "rows.jsonl: it is a zip archive"),
    ("rows.parquet", b"", "rows.parquet: not a readable parquet file"),
], ids=["NaN", "infinity in a list", "lines of lists", "lines of texts", "json lines of lists", "a list among objects",
        "a key twice", "a key twice in a row", "1e999", "digits", "deep line", "deep row", "pandas", "cp949",
        "lines of CSV", "open quote", "twice", "broken gz", "zip", "empty parquet"])
def test_what_cannot_be_read_is_refused_with_its_line_or_row_and_the_cure(tmp_path, name, content, words):
    with pytest.raises(BadData, match=words):
        _read(tmp_path, name, content)


def test_a_cell_of_csv_may_have_any_length(tmp_path):
    text = "word " * 60_000
    assert _read(tmp_path, "rows.csv", f"q,a\n{text},x\n")[0]["q"] == text


def _parquet(folder, columns):
    path = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return read_rows(path, DataFormat.PARQUET)


def test_a_float32_is_read_as_the_shortest_number_that_is_the_same_float32(tmp_path):
    (row,) = _parquet(tmp_path, {
        "one": pyarrow.array([1.1], pyarrow.float32()),
        "many": pyarrow.array([[0.1, None]], pyarrow.list_(pyarrow.float32())),
        "inner": pyarrow.array([{"x": 0.3, "y": "t"}], pyarrow.struct([("x", pyarrow.float32()),
                                                                       ("y", pyarrow.string())])),
        "map": pyarrow.array([[("k", 0.7)]], pyarrow.map_(pyarrow.string(), pyarrow.float32()))})
    assert dict(row) == {"one": 1.1, "many": [0.1, None], "inner": {"x": 0.3, "y": "t"}, "map": {"k": 0.7}}


def test_other_types_of_parquet_keep_their_values(tmp_path):
    day = datetime.date(2024, 1, 31)
    (row,) = _parquet(tmp_path, {"price": [decimal.Decimal("0.50")], "day": [day], "raw": [b"abc"], "tags": [["a"]]})
    assert dict(row) == {"price": decimal.Decimal("0.50"), "day": day, "raw": b"abc", "tags": ["a"]}


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, names=["a", "a"]), path)
    with pytest.raises(BadData, match=r"rows.parquet: two columns have the name 'a'"):
        read_rows(path, DataFormat.PARQUET)


def test_a_value_that_cannot_be_read_is_named_with_its_column_and_row(tmp_path):
    with pytest.raises(BadData, match=r"rows.parquet: column day, row 2: a value of type date"):
        _parquet(tmp_path, {"day": pyarrow.array([0, 2**62 - 2**62 % 86_400_000], pyarrow.date64())})


def _splits(folder, **dataset):
    spec = resolve_defaults(parse_job(tiny_job(folder, dataset=dataset)).spec)
    learn, held_out = read_splits(spec.dataset, None, folder / "scratch")
    return [row.columns["n"] for row in learn], held_out and [row.columns["n"] for row in held_out]


def test_shards_are_read_in_the_order_of_their_names_by_a_star_or_as_parts_of_a_split(tmp_path):
    for number, name in enumerate(["part-0.jsonl", "part-1.jsonl.gz", "other.jsonl"]):
        line = json.dumps({"n": number}).encode() + b"\n"
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    assert _splits(tmp_path, source=f"file://{tmp_path}/part-*") == ([0, 1], None)
    assert [file.name for file in local_files(Uri("file", "", f"{tmp_path}/part-*"))] == [
        "part-0.jsonl", "part-1.jsonl.gz"]
    with pytest.raises(MissingInput, match="no file matches"):
        _splits(tmp_path, source=f"file://{tmp_path}/nothing-*.jsonl")
    with pytest.raises(BadConfig, match=r"sha256: it is the digest of one file, and .* matches 2 files"):
        _splits(tmp_path, source=f"file://{tmp_path}/part-*", sha256="0" * 64)
    hub = tmp_path / "hub"
    hub.mkdir()
    for number, name in enumerate(["test.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"]):
        (hub / name).write_text(f"n\n{number}\n")
    assert _splits(tmp_path, source=f"file://{hub}/", evaluationSplit="test", evaluationFraction=None) == (
        ["1", "2"], ["0"])


@pytest.mark.parametrize(("names", "error", "message"), [
    (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], MissingInput, "2 of the 3 parts of the split train"),
    (["train-00001-of-00002.jsonl.gz"], MissingInput, "1 of the 2 parts of the split train"),
    (["train.jsonl", "train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
     BadConfig, "holds the split train twice, as train-00000-of-00001.jsonl|twice, as train.jsonl"),
    (["train.jsonl", "train.jsonl.gz"], BadConfig, "matches both train.jsonl and train.jsonl.gz"),
])
def test_a_split_in_a_folder_is_read_whole_and_once_or_refused(tmp_path, names, error, message):
    for name in names:
        line = b'{"n": 1}\n'
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    with pytest.raises(error, match=message):
        _splits(tmp_path, source=f"file://{tmp_path}/")


def test_a_star_may_choose_some_parts_but_no_file_with_its_compressed_copy(tmp_path):
    (tmp_path / "train-00000-of-00002.jsonl").write_text('{"n": 1}\n')
    assert _splits(tmp_path, source=f"file://{tmp_path}/train-*")[0] == [1]
    (tmp_path / "train-00000-of-00002.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n'))
    with pytest.raises(BadConfig, match="their rows would be read twice; remove one of them"):
        _splits(tmp_path, source=f"file://{tmp_path}/train-*")


def test_a_data_set_of_the_hub_whose_files_have_different_columns_is_bad_data(tmp_path, monkeypatch):
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    files[0].write_text('{"n": 1}\n')
    files[1].write_text('{"m": "x"}\n')
    builder = datasets.load_dataset_builder("json", data_files=[str(file) for file in files], cache_dir=str(tmp_path))
    monkeypatch.setattr(hub, "_refuse_files_elsewhere", lambda files, source: None)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *arguments, **settings: builder)
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, dataset={"source": "hf://owner/name"})).spec).dataset
    with pytest.raises(BadData, match=r"the files of hf://owner/name can't be read as one table: .*; name one of its"):
        read_splits(spec, None, tmp_path / "scratch")
