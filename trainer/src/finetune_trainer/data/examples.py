"""From source rows to examples that training and evaluation can use. Needs no tokenizer and no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.data.answers.row_findings import answer_findings
from finetune_trainer.data.held_out import divide, leave_out_duplicates, sample
from finetune_trainer.data.rendering.to_examples import to_examples
from finetune_trainer.data.rows import Example, Finding, Severity, SourceRow, summarise
from finetune_trainer.errors import BadData

AddTargets = Callable[[Sequence[Example], Sequence[Example], Sequence[SourceRow]],
                      tuple[list[Example], list[Example], list[Finding]]]
"""Gives examples the right answer that a reward judges by. Takes the examples to learn from, those to evaluate on, and
all source rows; returns the examples of both that have a right answer, and what is wrong with the others.
"""


@dataclass(frozen=True)
class CheckedExamples:
    """The examples of a data set after all checks that need no tokenizer.

    Attributes:
        train: examples to learn from, at most `spec.dataset.maxSamples`.
        held_out: examples to evaluate on, at most `spec.evaluation.samples`.
        findings: errors and warnings.
        counts: how many rows were read, and how many were left out for which reason (a key of `LEFT_OUT`).
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    findings: tuple[Finding, ...]
    counts: Counter[str]


def check_examples(learn: Sequence[SourceRow], held_out: Sequence[SourceRow] | None, spec: FineTuneJobSpec,
                   add_targets: AddTargets | None = None) -> CheckedExamples:
    """Render the templates of rows, divide the rows, and check their answers.

    Args:
        learn: the rows to learn from.
        held_out: the rows to evaluate on; None to hold some of the others out.
        spec: the job's spec with its defaults resolved.
        add_targets: gives examples their right answers, where the method has a reward.

    Raises:
        BadConfig: a template, the schema or the reward can't work.
        BadData: the rows can't be divided.
    """
    rows = [*learn, *(held_out or ())]
    counts = Counter(read=len(rows))
    train, findings = to_examples(learn, spec.dataset)
    held, more = to_examples(held_out or (), spec.dataset)
    findings += more
    counts["weightless"] = len(rows) - len(train) - len(held)
    if held_out is None:
        try:
            train, held, more = divide(train, spec.dataset.evaluation_fraction or 0.0, spec.training.seed)
        except BadData:
            refuse_errors(findings)
            raise
        findings += more
    for examples in (train, held):
        findings += answer_findings(examples, spec.dataset.answer_format)
    if add_targets:
        train, held, wrong = add_targets(train, held, rows)
        findings += wrong
    duplicates: list[Finding] = []
    if held_out is not None:  # Else they were divided by question, or all ask the same one.
        train, duplicates = leave_out_duplicates(train, held)
    findings += duplicates
    counts["duplicates"] = len(duplicates)
    used = train[: spec.dataset.max_samples]
    judged = sample(held, spec.evaluation.samples, spec.training.seed)
    counts["beyondMaxSamples"], counts["notEvaluated"] = len(train) - len(used), len(held) - len(judged)
    return CheckedExamples(tuple(used), tuple(judged), tuple(findings), counts)


def refuse_errors(findings: Sequence[Finding]) -> None:
    """End the preparation where rows have errors.

    Raises:
        BadData: with the first of them.
    """
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        count = "1 row" if len(errors) == 1 else f"{len(errors)} rows"
        raise BadData(f"spec.dataset: {count} can't be used: {summarise(errors)}")
