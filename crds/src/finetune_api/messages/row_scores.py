"""The scores of single held-out rows, with which two runs are compared row by row."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import Message

MOST_ROWS = 10_000
"""Most rows in one file: the first of an evaluation that has more."""

MOST_FIELDS = 32
"""Most fields of answers in one file. With more, the file has none of them."""

NO_CLASS = -1
"""The number in place of a class where a value is empty and no expected value is: a missing field, null, or 0."""

OTHER_CLASS = -2
"""The number in place of a class that is expected in no row."""

RowDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Column = tuple[float, ...]
Classes = Annotated[tuple[Annotated[int, Field(ge=OTHER_CLASS, lt=MOST_ROWS)], ...], Field(max_length=MOST_ROWS)]


class FieldClasses(Message):
    """The values of one field of JSON answers, as numbers of classes: item *i* of `expected`, `before` and `after`
    belongs to row *i*.

    F1 is a ratio of sums over rows, and these are its summands. A class has a true positive in each row where it is
    expected and given, a false negative where it is only expected, a false positive where it is only given.
    """

    classes: Annotated[tuple[RowDigest, ...], Field(max_length=MOST_ROWS)]
    """Each class that a row expects, by the first 16 hexadecimal digits of the SHA-256 digest of its value: JSON with
    sorted names, without spaces, and with 1 for 1.0."""

    expected: Classes
    """The expected class: its place in `classes`, from 0; -1 where the expected answer does not have the field."""

    before: Classes = ()
    """The class of the answer before training: its place in `classes`; -1 where there is no value (the field is
    missing, null, or 0, and no row expects such a value); -2 for another value that no row expects."""

    after: Classes = ()
    """The class of the answer after training, in the same way."""

    is_count: bool = False
    """Whether all expected values are integers, so that the field has a `fieldF1Micro`, where 0 is an empty value."""


class RowScores(Message):
    """The scores of single held-out rows (`row-scores.json`), in columns: item *i* of each list belongs to row *i*.

    A column is the score of one metric: 1 or 0 where an answer is right or wrong, for `fieldAccuracy` the share of
    right fields, for `loss` the mean of the answer's tokens in nats. F1 has no score of a single row; `fields` has what
    it is made of. The file holds no text of a row but the names of these fields.
    """

    schema_version: int = 1
    """Version of this format."""

    rows: Annotated[tuple[RowDigest, ...], Field(max_length=MOST_ROWS)]
    """The first 16 hexadecimal digits of the SHA-256 digest of question and expected answer. Rows of two runs are the
    same row where these are equal."""

    answer_tokens: tuple[int, ...]
    """Tokens of the expected answer. The `loss` of a run is the mean over tokens, not over rows."""

    before: dict[str, Column] = Field(default_factory=dict)
    """Scores before training, by metric."""

    after: dict[str, Column] = Field(default_factory=dict)
    """Scores after training, by metric."""

    fields: Annotated[dict[str, FieldClasses], Field(max_length=MOST_FIELDS)] = Field(default_factory=dict)
    """The values of each categorical field, where `fieldF1Macro` or `fieldF1Micro` is measured. Results of versions
    before this field have none."""
