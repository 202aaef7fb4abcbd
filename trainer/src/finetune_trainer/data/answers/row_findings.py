"""Checks of the expected answers before training. Each finding names its row.

evaluation/scores.py scores what a model answers, rewards/judging.py what ReFT rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.spec.dataset import AnswerFormat, AnswerType

from finetune_trainer.data.answers.json_answers import SECONDS, AnswerSchema, NotJson, parse_json
from finetune_trainer.data.rows import Example, Finding, Severity
from finetune_trainer.data.time_limit import TookTooLong
from finetune_trainer.errors import BadConfig


def schema_validator(schema: dict[str, Any] | None) -> AnswerSchema | None:
    """The schema that answers are checked with; None where there is no schema.

    Raises:
        BadConfig: the schema is not valid or has an unresolvable reference.
    """
    return None if schema is None else AnswerSchema(schema)


def answer_findings(examples: Sequence[Example], answer_format: AnswerFormat) -> list[Finding]:
    """Findings about answers that do not have the job's answer format.

    Raises:
        BadConfig: the schema is not valid, or checking an answer takes too long, as other answers may too.
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
            raise BadConfig(f"spec.dataset.answerFormat.jsonSchema: checking the answer of {example.location} takes "
                            f"more than {SECONDS:g} s; simplify the schema's patterns and references") from error
        if fault is not None:
            findings.append(Finding(Severity.ERROR, example.location, fault))
    return findings
