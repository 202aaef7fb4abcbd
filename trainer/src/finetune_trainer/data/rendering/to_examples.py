"""From rows to examples: by the templates `prompt` and `completion`, or from a column of chat messages."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.spec.dataset import DatasetSpec

from finetune_trainer.data.rendering.conversations import from_messages
from finetune_trainer.data.rendering.row_template import RowTemplate, row_data
from finetune_trainer.data.rows import Example, Finding, Severity, SourceRow, known_columns


def to_examples(rows: Sequence[SourceRow], spec: DatasetSpec) -> tuple[list[Example], list[Finding]]:
    """Every row as question and answer, and what is wrong with the rows that could not be.

    Raises:
        BadConfig: a template is not valid, reaches for what it may not, or names a column that no row has.
    """
    if spec.messages is not None:
        return from_messages(rows, spec.messages)
    columns = known_columns(rows)
    question = RowTemplate(spec.prompt or "", "spec.dataset.prompt", columns)
    answer = RowTemplate(spec.completion or "", "spec.dataset.completion", columns)
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        texts = {}
        try:
            data = row_data(row)
        except ValueError as error:
            findings.append(Finding(Severity.ERROR, row.place, str(error)))
            continue
        for field, template in (("prompt", question), ("completion", answer)):
            try:
                texts[field] = template.render(data)
            except ValueError as error:
                findings.append(Finding(Severity.ERROR, row.place, f"{field}: {error}"))
        if len(texts) < 2:
            continue
        empty = next((field for field, text in texts.items() if not text), None)
        if empty:
            findings.append(Finding(Severity.ERROR, row.place, f"{empty} is empty"))
        else:
            examples.append(Example(row.place, ({"role": "user", "content": texts["prompt"]},), texts["completion"]))
    return examples, findings
