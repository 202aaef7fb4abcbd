"""The rows to train on, and how a row becomes a question and its answer."""

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
    """The field of earlier releases: a stored job keeps it, and a new job cannot set it."""
    described["properties"]["schema"] = {
        "type": "object", "x-kubernetes-preserve-unknown-fields": True,
        "description": "The JSON Schema as an object, for `finetune run` alone; a cluster takes `jsonSchema`."}


class AnswerFormat(ApiModel):
    """The form of the answers. Preflight checks it in the data, decoding can enforce it, and evaluation measures it."""

    type: AnswerType = AnswerType.TEXT
    """`text`, or `json` for answers that are one JSON value."""

    model_config = ConfigDict(json_schema_extra=_with_schema_as_object)

    json_schema: JsonSchema | None = Field(
        default=None, alias="jsonSchema", validation_alias=AliasChoices("jsonSchema", "schema"),
        serialization_alias="schema")
    """JSON Schema (draft 2020-12) that each answer must match. It is JSON text of at most 32768 characters and 64
    levels: write `jsonSchema: |` and the object below it. Needs type `json`. `finetune run` also accepts `schema`, as
    YAML."""


class DatasetSpec(ApiModel):
    """Rows with columns. Two templates, or one column of chat messages, make a question and an answer of each row."""

    source: DatasetUri
    """Location of the rows: `hf://owner/name` or `hf://owner/name/config`, or a jsonl, json, csv, tsv or parquet file,
    plain or compressed (`.gz`, `.bz2`, `.xz`), at `s3://`, `https://`, `pvc://` or, with `finetune run`, `file://`. A
    `*` in the file's name matches any text: all matching files are read, in the order of their names. A slash at the
    end makes it a folder: each split is the file of its name (`train.jsonl`), or that file's parts
    (`train-00000-of-00002.jsonl`)."""

    format: DataFormat | None = None
    """Format of the file. Default: by the ending of its name."""

    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Revision of an `hf://` data set, such as `refs/convert/parquet` for one that is published as a script."""

    sha256: Sha256 | None = None
    """Expected SHA-256 digest of the file (one file only). A different file is rejected."""

    split: SplitName = "train"
    """The split to train on. A single file is one split, whatever its name."""

    evaluation_split: SplitName | None = None
    """The split to evaluate on. Write this or `evaluationFraction`, not both."""

    evaluation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the distinct questions that are held out for evaluation, with all of their rows. `training.seed` chooses
    them. Default: 0.1, if `evaluationSplit` is not set."""

    prompt: Template | None = None
    """Jinja template of the question over the row's columns, such as `{{ facts }}`, or `{{ row["Question Text"] }}` for
    a name with spaces. Needs `completion`. A null becomes empty text; lists and mappings become JSON. Blank lines
    before the text and spaces after it are removed."""

    completion: Template | None = None
    """Jinja template of the expected answer. `{{ label | tojson }}` writes a column as JSON."""

    messages: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Name of the column with chat messages (`[{"role": …, "content": …}, …]`, or ShareGPT's `from` and `value`). The
    last message is the answer, or the last one whose `weight` is not 0. A column `tools` lists the functions that the
    model may call. Write this or `prompt` and `completion`, not both."""

    system: Template | None = None
    """System prompt: plain text before every question. For a model without a system role, it is put at the start of the
    question."""

    max_samples: Annotated[int, Field(ge=1)] | None = None
    """Train on at most this many rows, the first ones. Default: all rows."""

    answer_format: AnswerFormat = AnswerFormat()
    """The form of the answers."""
