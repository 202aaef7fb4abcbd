"""From rows to examples: by the templates `prompt` and `completion`, or from a column of chat messages."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.spec.dataset import DatasetSpec

from finetune_trainer.data.rendering.conversations import from_messages
from finetune_trainer.data.rendering.row_template import RowTemplate, row_data
from finetune_trainer.data.rows import Example, Finding, Severity, SourceRow, known_columns
from finetune_trainer.errors import BadConfig


def to_examples(rows: Sequence[SourceRow], spec: DatasetSpec) -> tuple[list[Example], list[Finding]]:
    """The rows as examples, and findings about the rows that can't be examples.

    Raises:
        BadConfig: a template is not valid, uses what it may not use, or names a column that no row has.
    """
    if spec.messages is not None:
        return from_messages(rows, spec.messages)
    templates = _templates(spec, known_columns(rows))
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        texts = {}
        try:
            data = row_data(row)
        except ValueError as error:
            findings.append(Finding(Severity.ERROR, row.location, str(error)))
            continue
        faults = []
        for field, template in templates.items():
            try:
                texts[field] = template.render(data)
            except ValueError as error:
                findings.append(Finding(Severity.ERROR, row.location, f"{field}: {error}"))
            except BadConfig as error:
                faults.append(error)
        _refuse_templates(faults)
        if len(texts) < len(templates):
            continue
        empty = next((field for field, text in texts.items() if not text), None)
        if empty:
            findings.append(Finding(Severity.ERROR, row.location, f"{empty} is empty"))
        else:
            examples.append(Example(row.location, ({"role": "user", "content": texts["prompt"]},), texts["completion"]))
    return examples, findings


def _templates(spec: DatasetSpec, columns: Sequence[str]) -> dict[str, RowTemplate]:
    """The templates of question and answer by the name of their field.

    Raises:
        BadConfig: one of them is not valid, or both.
    """
    templates, faults = {}, []
    for field, text in (("prompt", spec.prompt), ("completion", spec.completion)):
        try:
            templates[field] = RowTemplate(text or "", f"spec.dataset.{field}", columns)
        except BadConfig as error:
            faults.append(error)
    _refuse_templates(faults)
    return templates


def _refuse_templates(faults: Sequence[BadConfig]) -> None:
    if faults:
        raise BadConfig("; ".join(map(str, faults))) from faults[0]
