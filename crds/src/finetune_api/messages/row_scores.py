"""The scores of single held-out rows, with which two runs are compared row by row."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import Message

MOST_ROWS = 10_000
"""Most rows in one file: the first of an evaluation that has more."""

RowDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Column = tuple[float, ...]


class RowScores(Message):
    """The scores of single held-out rows (`row-scores.json`), in columns: item *i* of each list belongs to row *i*.

    A column is the score of one metric: 1 or 0 where an answer is right or wrong, for `fieldAccuracy` the share of
    right fields, for `loss` the mean of the answer's tokens in nats. The file holds no text of a row.
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
