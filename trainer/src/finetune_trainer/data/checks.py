"""What is looked for in the rows before a single step is trained. Each finding names its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.spec.dataset import AnswerFormat, AnswerType
from finetune_api.spec.training import LongRows

from finetune_trainer.data.json_answers import SECONDS, AnswerSchema, NotJson, parse_json
from finetune_trainer.data.rows import Example, Finding, Severity, TokenRow
from finetune_trainer.errors import BadConfig
from finetune_trainer.time_limit import TookTooLong

_LEAST_PROMPT = 16


def schema_validator(schema: dict[str, Any] | None) -> AnswerSchema | None:
    """What holds answers against a schema; None where there is no schema.

    Raises:
        BadConfig: the schema can't be used.
    """
    return None if schema is None else AnswerSchema(schema)


def answer_findings(examples: Sequence[Example], answer_format: AnswerFormat) -> list[Finding]:
    """Answers that don't have the form that the job says.

    Raises:
        BadConfig: the schema can't be used, or takes too long to hold an answer against; all others might, too.
    """
    if answer_format.type is not AnswerType.JSON:
        return []
    schema = schema_validator(answer_format.json_schema)
    findings = []
    for example in examples:
        try:
            value = parse_json(example.answer)
            fault = schema.fault(value) if schema else None
        except NotJson as error:
            fault = f"the answer is not valid JSON: {error}"
        except TookTooLong as error:
            raise BadConfig(f"spec.dataset.answerFormat.schema: to hold the answer of {example.place} against it takes "
                            f"more than {SECONDS:g} s: simplify its patterns and references") from error
        if fault is not None:
            findings.append(Finding(Severity.ERROR, example.place, fault))
    return findings


def leave_out_duplicates(train: Sequence[Example], held_out: Sequence[Example]
                         ) -> tuple[list[Example], list[Finding]]:
    """Training rows without those whose question is held out too: they would make the evaluation too good."""
    asked = {example.messages: example.place for example in map(_comparable, held_out)}
    kept, findings = [], []
    for example in train:
        twin = asked.get(_comparable(example).messages)
        if twin is None:
            kept.append(example)
        else:
            findings.append(Finding(Severity.WARNING, example.place, f"asks the same as {twin}, which is held out: "
                                                                     "left out of training"))
    return kept, findings


def _comparable(example: Example) -> Example:
    # Mappings aren't hashable: compare conversations as tuples of their texts.
    messages: Any = tuple((message["role"], message["content"]) for message in example.messages)
    return Example(example.place, messages, example.answer)


def fit(row: TokenRow, place: str, max_length: int, long_rows: LongRows) -> tuple[TokenRow | None, Finding | None]:
    """A row that is no longer than `max_length` tokens, or None where it has to go. The answer is never cut."""
    if len(row) <= max_length:
        return row, None
    length = f"{len(row)} tokens, more than maxLength {max_length}"
    if long_rows is LongRows.DROP:
        return None, Finding(Severity.WARNING, place, f"{length}: dropped")
    room = max_length - len(row.answer)
    if long_rows is LongRows.REFUSE or room < min(_LEAST_PROMPT, len(row.prompt)):
        why = "" if long_rows is LongRows.REFUSE else f" (the answer alone has {len(row.answer)})"
        return None, Finding(Severity.ERROR, place, f"{length}{why}: raise spec.training.maxLength, or write longRows: "
                                                    "drop")
    head = (room + 1) // 2
    cut = row.prompt[:head] + row.prompt[len(row.prompt) - (room - head):]
    return TokenRow(cut, row.answer), Finding(Severity.WARNING, place, f"{length}: the middle of its question was cut")
