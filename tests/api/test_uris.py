"""Locations: what each scheme takes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from finetune_api.values.uris import Uri, is_address, parse_uri

from tests.api.jobs import document, errors_of

ALL = ("hub", "s3", "https", "pvc", "hf", "file")


@pytest.mark.parametrize(("text", "scheme", "authority", "path"), [
    ("mistralai/Mistral-7B-Instruct-v0.2", "hub", "mistralai", "Mistral-7B-Instruct-v0.2"),
    ("s3://bucket", "s3", "bucket", ""),
    ("s3://bucket/a/b.jsonl", "s3", "bucket", "a/b.jsonl"),
    ("s3://bucket/folder/", "s3", "bucket", "folder/"),
    ("s3://my.bucket-1/학습/train.jsonl", "s3", "my.bucket-1", "학습/train.jsonl"),
    ("https://host.example:8443/rows.csv", "https", "host.example:8443", "rows.csv"),
    ("pvc://claim", "pvc", "claim", ""),
    ("pvc://claim/models/small", "pvc", "claim", "models/small"),
    ("hf://owner/name", "hf", "owner", "name"),
    ("hf://lbox/lbox_open/ljp_criminal", "hf", "lbox", "lbox_open/ljp_criminal"),
    ("file:///data/train.jsonl", "file", "", "/data/train.jsonl"),
    ("file://./train.jsonl", "file", "", "./train.jsonl"),
    ("file://./../shared/train.jsonl", "file", "", "./../shared/train.jsonl"),
    ("file://../../build/train.jsonl", "file", "", "../../build/train.jsonl"),
])
def test_a_location_is_taken_apart_and_written_back(text, scheme, authority, path):
    uri = parse_uri(text, ALL)
    assert uri == Uri(scheme, authority, path)
    assert str(uri) == text
    assert parse_uri(uri, ALL) == uri


@pytest.mark.parametrize(("text", "message"), [
    ("s3://bucket/../other", "no '..'"),
    ("pvc://claim/a/../../b", "no '..'"),
    ("https://host/../x", "no '..'"),
    ("pvc://claim//etc", "no empty first folder"),
    ("s3://bucket/key?versionId=1", "no query"),
    ("https://host/rows.csv?token=abc", "no query"),
    ("https://host/rows.csv#part", "no query, fragment"),
    ("s3://bucket/a\\b", "backslash"),
    ("s3://bucket/a\nb", "line break"),
    ("file:///a\r", "line break"),
    ("s3://B/key", "'B' is not possible before the first slash"),
    ("s3:///key", "'' is not possible before the first slash"),
    ("https://user:word@host/x", "is not possible before the first slash"),
    ("https://host", "write https://host/path"),
    ("pvc://Claim/x", "'Claim' is not possible"),
    ("hf://owner", "write hf://owner/name"),
    ("hf://owner/", "write hf://owner/name"),
    ("hf://owner/name/", "write hf://owner/name"),
    ("hf://owner/name/config/more", "write hf://owner/name"),
    ("hf://owner/./config", "write hf://owner/name"),
    ("file://train.jsonl", "file://./relative/path"),
    ("file://~/train.jsonl", "relative means: to the folder of this YAML file"),
    ("file://", "file:///absolute/path"),
    ("ftp://host/x", "ftp:// is not possible here"),
    ("s3:bucket/key", "write a location"),
    ("train.jsonl", "write a location"),
    ("owner/name/more", "write a location"),
    ("owner/..", "write a location"),
    ("owner/name\n", "write a location"),
    ("", "write a location"),
    (5, "write a location"),
    (None, "write a location"),
    ("s3://bucket/" + "a" * 1013, "at most 1024 characters"),
])
def test_an_impossible_location_is_refused_with_what_to_write(text, message):
    with pytest.raises(ValueError) as refusal:
        parse_uri(text, ALL)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("section", "field", "taken", "refused"), [
    ("model", "source", ["owner/name", "s3://bucket/m", "pvc://claim/m", "file:///m"], ["hf://o/n", "https://h/m"]),
    ("dataset", "source", ["hf://o/n", "s3://bucket/d", "https://h/d", "pvc://claim/d", "file://./d"], ["owner/name"]),
    ("output", "uri", ["s3://bucket/o", "pvc://claim/o", "file://./o"], ["hf://o/n", "https://h/o", "owner/name"]),
])
def test_a_field_takes_its_own_schemes_only(section, field, taken, refused):
    for text in taken:
        assert errors_of(document(**{section: {field: text}})) == []
    for text in refused:
        assert [error.path for error in errors_of(document(**{section: {field: text}}))] == [f"spec.{section}.{field}"]


@pytest.mark.parametrize(("base", "joined"), [
    ("s3://bucket", "s3://bucket/a/b"),
    ("s3://bucket/prefix", "s3://bucket/prefix/a/b"),
    ("s3://bucket/prefix/", "s3://bucket/prefix/a/b"),
    ("pvc://claim", "pvc://claim/a/b"),
    ("file:///out", "file:///out/a/b"),
    ("file:///", "file:///a/b"),
    ("file://./out/", "file://./out/a/b"),
])
def test_joining_goes_below(base, joined):
    assert str(parse_uri(base, ALL).join("a", "b")) == joined
    assert str(parse_uri(base, ALL).join("a/b")) == joined


@pytest.mark.parametrize(("text", "absolute"), [
    ("file://./train.jsonl", "file:///jobs/train.jsonl"),
    ("file://./data/", "file:///jobs/data/"),
    ("file://./../data", "file:///data"),
    ("file://../data/", "file:///data/"),
    ("file:///elsewhere/x", "file:///elsewhere/x"),
    ("s3://bucket/x", "s3://bucket/x"),
    ("owner/name", "owner/name"),
])
def test_a_relative_file_is_relative_to_the_folder_of_the_yaml(text, absolute):
    assert str(parse_uri(text, ALL).relative_to_folder(Path("/jobs"))) == absolute


def test_a_relative_folder_still_gives_an_absolute_location(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_uri("file://./x", ALL).relative_to_folder(Path()).local_path() == tmp_path.resolve() / "x"


def test_only_a_file_has_a_local_path():
    assert parse_uri("file:///a/b", ALL).local_path() == Path("/a/b")
    with pytest.raises(ValueError, match="s3://bucket/x is not a file:// location"):
        parse_uri("s3://bucket/x", ALL).local_path()


def test_a_slash_at_the_end_means_a_folder():
    assert parse_uri("s3://bucket/data/", ALL).is_folder
    assert not parse_uri("s3://bucket/data", ALL).is_folder


@pytest.mark.parametrize("address", [
    "http://minio:9000", "https://host_a.example/v1/", "https://[::1]:8443/v1", "http://[fd00::a:1]", "http://[::]",
    "http://[1:2:3:4:5:6:7:8]:65535", "http://[1:2::8]/a[b]"])
def test_an_address_of_a_server_is_one_that_every_client_can_parse(address):
    assert is_address(address)
    assert urlsplit(address).hostname
    assert (urlsplit(address).port or 80) > 0


@pytest.mark.parametrize("address", [
    "https://[::1", "http://[abc", "http://[::::]", "http://[1:2:3:4:5:6:7]", "http://[::1%25eth0]", "http://host:0",
    "http://host:65536", "http://host:x", "http://\u2100.example", "http://user@host", "http://:80", "http://", "ftp://host",
    "http://host\n", "http://[1::2::3]"])
def test_what_some_client_cannot_parse_is_no_address(address):
    assert not is_address(address)
