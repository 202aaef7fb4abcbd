"""What a row is at each stage, and what a check finds in one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class SourceRow:
    """A row as it was read.

    Attributes:
        place: where it is, for people: `train row 17`.
        columns: its values by column name.
    """

    place: str
    columns: Columns


@dataclass(frozen=True)
class Example:
    """A row as question and answer.

    Attributes:
        place: where it came from.
        messages: the conversation before the answer, as `{"role", "content"}`, without the job's system prompt.
        answer: the expected answer.
        target: the right answer by which a reward judges; None without a reward.
        columns: the row's columns, for rewards.
    """

    place: str
    messages: tuple[Mapping[str, str], ...]
    answer: str
    target: str | None = None
    columns: Columns = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last message before the answer."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class TokenRow:
    """A row as token ids; the answer ends with the model's end-of-turn token.

    Attributes:
        prompt: ids of everything before the answer, the template's opening of the answer included.
        answer: ids of the answer, which alone are trained.
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
    """Something that a check found in a row."""

    severity: Severity
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True)
class EvaluationRow:
    """A held-out row: its tokens, and what people and metrics compare."""

    example: Example
    tokens: TokenRow


@dataclass(frozen=True)
class PreparedData:
    """Everything that training and evaluation need of the data set.

    Attributes:
        train: the rows to learn from, in their order in the data set.
        train_answers: their expected answers, for the majority baseline.
        train_examples: the same rows as question and answer.
        held_out: the rows to evaluate on.
        findings: warnings; errors never get here.
        counts: how many rows were read, cut, dropped, and left out as duplicates.
    """

    train: tuple[TokenRow, ...]
    train_answers: tuple[str, ...]
    held_out: tuple[EvaluationRow, ...]
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    train_examples: tuple[Example, ...] = ()

    def digest(self) -> str:
        """SHA-256 over every token id, so that a changed row, template or tokenizer shows."""
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
    """The first findings in words, and how many more there are."""
    text = "; ".join(str(finding) for finding in findings[:shown])
    rest = len(findings) - shown
    return f"{text}; and {rest} more" if rest > 0 else text


def places(rows: Iterable[Columns], split: str) -> list[SourceRow]:
    """Rows with their places: `<split> row 1` is the first."""
    return [SourceRow(f"{split} row {number}", row) for number, row in enumerate(rows, start=1)]
