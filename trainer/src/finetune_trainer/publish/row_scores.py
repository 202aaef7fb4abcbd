"""The file with the scores of single held-out rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from finetune_api.messages import MOST_ROWS, FieldClasses, RowScores

from finetune_trainer.data.rows import EvaluationRow, Example
from finetune_trainer.evaluation.evaluate import Evaluation

_DIGITS = 16


def row_scores(rows: Sequence[EvaluationRow], before: Evaluation | None, after: Evaluation) -> RowScores:
    """The scores of the first `MOST_ROWS` held-out rows.

    Args:
        rows: the held-out rows.
        before: the evaluation before training, where there is one.
        after: the evaluation after training.
    """
    listed = rows[:MOST_ROWS]
    return RowScores(
        rows=tuple(row_digest(row.example) for row in listed),
        answer_tokens=tuple(len(row.tokens.answer) for row in listed),
        before=_columns(before.by_row, len(listed)) if before else {}, after=_columns(after.by_row, len(listed)),
        fields=_fields(before, after, len(listed)))


def row_digest(example: Example) -> str:
    """Which row it is: the same for every model, template of a system prompt and length that it is cut to."""
    text = f"{example.asked}\x1d{example.answer}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _fields(before: Evaluation | None, after: Evaluation, count: int) -> dict[str, FieldClasses]:
    """The values of each field. Both evaluations are of the same rows, so they number the same classes."""
    found = {}
    for name, column in after.by_class.items():
        first = before.by_class.get(name) if before else None
        if len(column.given) == count:
            found[name] = FieldClasses(
                classes=tuple(column.classes), expected=tuple(column.expected), is_count=column.is_count,
                before=tuple(first.given) if first and tuple(first.classes) == tuple(column.classes) else (),
                after=tuple(column.given))
    return found


def _columns(by_row: Mapping[str, Sequence[float]], count: int) -> dict[str, tuple[float, ...]]:
    """The columns that say something of every row: JSON has no infinite loss."""
    columns = {metric: tuple(round(value, 6) for value in values[:count]) for metric, values in by_row.items()}
    return {metric: values for metric, values in columns.items()
            if len(values) == count and all(map(math.isfinite, values))}
