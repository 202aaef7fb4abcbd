"""The answers of a run to its first held-out questions, which the report of an experiment shows side by side."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.messages.row_scores import RowDigest
from finetune_api.values.api_model import Message


class GivenAnswer(Message):
    """An answer of a model."""

    text: str
    """The answer."""

    right: bool
    """Whether it is right, as `judged` says."""


class AnsweredQuestion(Message):
    """A held-out question, the expected answer, and the answers of the models."""

    row: RowDigest
    """The row's digest, as in `row-scores.json`."""

    question: str
    """The last message before the answer."""

    expected: str
    """The answer in the row."""

    before: GivenAnswer | None = None
    """The answer before training."""

    after: GivenAnswer | None = None
    """The answer after training."""

    reference: GivenAnswer | None = None
    """The answer of the reference model."""


class SampleAnswers(Message):
    """The first held-out questions of a run with the models' answers (`answers.json`)."""

    schema_version: int = 1
    """Version of this format."""

    judged: str
    """What makes an answer count as right, in words."""

    questions: Annotated[tuple[AnsweredQuestion, ...], Field(max_length=100)]
    """The questions."""
