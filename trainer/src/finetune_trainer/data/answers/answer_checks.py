"""What is looked for in the rows before a single step is trained. Each finding names its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.spec.dataset import AnswerFormat, AnswerType

from finetune_trainer.data.answers.json_answers import SECONDS, AnswerSchema, NotJson, parse_json
from finetune_trainer.data.rows import Example, Finding, Severity
from finetune_trainer.data.time_limit import TookTooLong
from finetune_trainer.errors import BadConfig


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
            raise BadConfig(f"spec.dataset.answerFormat.jsonSchema: to hold the answer of {example.place} against it "
                            f"takes more than {SECONDS:g} s: simplify its patterns and references") from error
        if fault is not None:
            findings.append(Finding(Severity.ERROR, example.place, fault))
    return findings
