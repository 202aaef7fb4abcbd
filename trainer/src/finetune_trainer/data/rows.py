"""The types of a row at each stage of preparation, and the findings of checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Columns = Mapping[str, Any]
Message = Mapping[str, Any]
"""`role` and `content`, both texts; an assistant's may have `tool_calls` too."""


@dataclass(frozen=True)
class SourceRow:
    """A row as it was read from its file.

    Attributes:
        location: its position for messages, such as `train row 17`.
        columns: its values, by column name.
    """

    location: str
    columns: Columns


@dataclass(frozen=True)
class Example:
    """A row as question and answer.

    Attributes:
        location: its position for messages, as in `SourceRow`.
        messages: the conversation before the answer, without the job's system prompt.
        answer: the expected answer.
        target: the right answer that a reward compares with; None without a reward.
        columns: the row's columns, for rewards.
        tools: the functions that the answer may call, in the form that chat templates take.
        calls: the calls that the answer makes, written by the model's template; None where the answer is a text.
    """

    location: str
    messages: tuple[Message, ...]
    answer: str
    target: str | None = None
    columns: Columns = field(default_factory=dict)
    tools: Any = None
    calls: Any = None

    @property
    def question(self) -> str:
        """The last message before the answer."""
        return str(self.messages[-1]["content"])

    @property
    def asked(self) -> str:
        """The whole conversation before the answer as one text. Two rows ask the same question where it is equal."""
        if self.tools or any(len(message) > 2 for message in self.messages):
            return json.dumps([self.messages, self.tools], ensure_ascii=False, sort_keys=True)
        return "\x1f".join([f"{message['role']}\x1e{message['content']}" for message in self.messages])


@dataclass(frozen=True)
class TokenRow:
    """A row as token ids; the answer ends with the model's end-of-turn token.

    Attributes:
        prompt: ids of everything before the answer, including what the template writes to open the answer.
        answer: ids of the answer. Only these are trained.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Severity(StrEnum):
    """Whether a finding ends the job."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """The result of a check: what is wrong with a row."""

    severity: Severity
    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


@dataclass(frozen=True)
class EvaluationRow:
    """A held-out row: its tokens, and the example that metrics compare answers with."""

    example: Example
    tokens: TokenRow


LEFT_OUT = {
    "dropped": "left out: too long",
    "duplicates": "left out: held out too",
    "weightless": "left out: no answer with a weight",
    "beyondMaxSamples": "left out: beyond maxSamples",
    "notEvaluated": "held out, beyond evaluation.samples",
}
"""The reasons for which a row is neither trained on nor evaluated, and their text in reports."""


@dataclass(frozen=True)
class PreparedData:
    """What training and evaluation need of the data set.

    Attributes:
        train: the training rows, in the order of the data set.
        train_answers: their expected answers, for the comparison with the most common answer.
        train_examples: the training rows as examples.
        held_out: the rows to evaluate on.
        findings: warnings. Errors end the preparation.
        counts: `read` is the number of rows. Each row counts once more: as `train`, as `heldOut`, or for a reason in
            `LEFT_OUT`. `cut` counts the training and held-out rows whose question was shortened.
    """

    train: tuple[TokenRow, ...]
    train_answers: tuple[str, ...]
    held_out: tuple[EvaluationRow, ...]
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    train_examples: tuple[Example, ...] = ()

    def digest(self) -> str:
        """SHA-256 over all token ids: it changes with the rows, the templates and the tokenizer."""
        digest = hashlib.sha256()
        for row in self.train:
            _add(digest, row)
        digest.update(b"held out")
        for held_out in self.held_out:
            _add(digest, held_out.tokens)
        for example in (*self.train_examples, *(row.example for row in self.held_out)):
            if example.target is not None:
                digest.update(json.dumps(example.target).encode())
        return digest.hexdigest()


def _add(digest: Any, row: TokenRow) -> None:
    for ids in (row.prompt, row.answer):
        digest.update(len(ids).to_bytes(4, "little"))
        for token in ids:
            digest.update(token.to_bytes(4, "little"))


def summarise(findings: Sequence[Finding], shown: int = 5) -> str:
    """The text of the first findings, and the number of the others."""
    text = "; ".join(str(finding) for finding in findings[:shown])
    rest = len(findings) - shown
    return f"{text}; and {rest} more" if rest > 0 else text


def known_columns(rows: Iterable[SourceRow]) -> list[str]:
    """The names of all columns that any row has, sorted."""
    return sorted({name for row in rows for name in row.columns})


def numbered_rows(rows: Iterable[Columns], split: str) -> list[SourceRow]:
    """Rows with their positions: the first is `<split> row 1`."""
    return [SourceRow(f"{split} row {number}", row) for number, row in enumerate(rows, start=1)]
