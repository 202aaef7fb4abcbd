"""The rows to learn from, and how a row becomes a question and its answer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AliasChoices, ConfigDict, Field

from finetune_api.values.api_model import ApiModel, Sha256, Template
from finetune_api.values.json_schema import JsonSchema
from finetune_api.values.uris import DatasetUri

SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class DataFormat(StrEnum):
    """How the rows of a file are written."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class AnswerType(StrEnum):
    """The form of an answer."""

    TEXT = "text"
    JSON = "json"


def _with_schema_as_object(described: dict[str, Any]) -> None:
    """What jobs of earlier releases have: it stays readable where it is stored, and no new job gets it."""
    described["properties"]["schema"] = {
        "type": "object", "x-kubernetes-preserve-unknown-fields": True,
        "description": "The JSON Schema as an object, for `finetune run` alone; a cluster takes `jsonSchema`."}


class AnswerFormat(ApiModel):
    """The form that answers must have: checked in the data, usable in decoding, and measured at evaluation."""

    type: AnswerType = AnswerType.TEXT
    """`text`, or `json` for answers that are one JSON value."""

    model_config = ConfigDict(json_schema_extra=_with_schema_as_object)

    json_schema: JsonSchema | None = Field(
        default=None, alias="jsonSchema", validation_alias=AliasChoices("jsonSchema", "schema"),
        serialization_alias="schema")
    """JSON Schema (draft 2020-12) that each answer must match, as JSON text of at most 32768 characters and 64 levels:
    `jsonSchema: |` and the object below it. Only with type `json`. `finetune run` also takes `schema`, as YAML."""


class DatasetSpec(ApiModel):
    """Rows with columns, made into question and answer by two templates, or by one column of chat messages."""

    source: DatasetUri
    """`hf://owner/name` or `hf://owner/name/config`, or a jsonl, json, csv, tsv or parquet file, plain or compressed
    (`.gz`, `.bz2`, `.xz`), at `s3://`, `https://`, `pvc://` or, with `finetune run`, `file://`. A `*` in the file's
    name stands for anything: all files that match are read, in the order of their names. With a slash at its end it is
    a folder, and each split is the file named after it (`train.jsonl`), or its parts
    (`train-00000-of-00002.jsonl`)."""

    format: DataFormat | None = None
    """How the file is written; by default its name's ending tells."""

    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Revision of an `hf://` data set, such as `refs/convert/parquet` for one that is published as a script."""

    sha256: Sha256 | None = None
    """Expected digest of the file (one file only); a different file is refused."""

    split: SplitName = "train"
    """The split to learn from; a single file is one split, whatever its name."""

    evaluation_split: SplitName | None = None
    """The split to evaluate on; or use `evaluationFraction`."""

    evaluation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the distinct questions held out for evaluation, with all of their rows, chosen by `training.seed`. With
    neither this nor `evaluationSplit`, 0.1 is held out."""

    prompt: Template | None = None
    """Jinja template of the question over the row's columns, such as `{{ facts }}`, or `{{ row["Question Text"] }}`
    for a name that is no word; together with `completion`. A null is written as nothing, lists and mappings as JSON.
    Blank lines before a text and blanks after it are left out."""

    completion: Template | None = None
    """Jinja template of the expected answer. `{{ label | tojson }}` writes a column as JSON."""

    messages: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Name of the column with chat messages (`[{"role": …, "content": …}, …]`, or ShareGPT's `from` and `value`); the
    last one is the answer, or the last whose `weight` is not 0. A column `tools` beside it holds the functions that may
    be called. Instead of `prompt` and `completion`."""

    system: Template | None = None
    """System prompt, a plain text put before every question. A model without a system role gets it at the start of the
    question."""

    max_samples: Annotated[int, Field(ge=1)] | None = None
    """Use at most this many rows for training (the first ones); all by default."""

    answer_format: AnswerFormat = AnswerFormat()
    """The form of the answers."""
