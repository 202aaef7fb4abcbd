"""The whole way from a data set to token rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.data.chat import ChatFormat
from finetune_trainer.data.checks import answer_findings, fit, leave_out_duplicates
from finetune_trainer.data.rows import (
    EvaluationRow,
    Example,
    Finding,
    PreparedData,
    Severity,
    SourceRow,
    TokenRow,
    summarise,
)
from finetune_trainer.data.sources import read_splits
from finetune_trainer.data.templates import to_examples
from finetune_trainer.errors import BadData
from finetune_trainer.reft.rewards import Judge, with_right_answers


def prepare(spec: FineTuneJobSpec, chat: ChatFormat, scratch: Path, judge: Judge | None = None) -> PreparedData:
    """Read, render, check and tokenise a job's data set.

    Args:
        spec: the job's spec.
        chat: how the model writes a conversation.
        scratch: where files from elsewhere are put.
        judge: judges responses, where the method has a reward; the rows then get their right answers.

    Raises:
        MissingInput: the data set isn't there.
        BadConfig: its description can't work.
        BadData: rows that can't be learnt from; the message names the first ones.
    """
    learn, held_out = read_splits(spec.dataset, spec.output.s3, spec.training.seed, scratch)
    return prepare_rows(learn, held_out, spec, chat, judge)


def prepare_rows(learn: Sequence[SourceRow], held_out: Sequence[SourceRow], spec: FineTuneJobSpec, chat: ChatFormat,
                 judge: Judge | None = None) -> PreparedData:
    """Render, check and tokenise rows that are read already; errors as in `prepare`."""
    train_examples, findings = to_examples(learn, spec.dataset)
    held_examples, more = to_examples(held_out, spec.dataset)
    findings += more
    for examples in (train_examples, held_examples):
        findings += answer_findings(examples, spec.dataset.answer_format)
    if judge:
        train_examples, wrong = with_right_answers(train_examples, learn, judge)
        held_examples, more = with_right_answers(held_examples, held_out, judge)
        findings += [*wrong, *more]
    counts = Counter(read=len(learn) + len(held_out))
    train_examples, duplicates = leave_out_duplicates(train_examples, held_examples)
    counts["duplicates"] = len(duplicates)
    train_examples = train_examples[: spec.dataset.max_samples]
    held_examples = held_examples[: spec.evaluation.samples]
    train, long_train = _tokenise(train_examples, spec, chat)
    held, long_held = _tokenise(held_examples, spec, chat)
    findings += [*duplicates, *long_train, *long_held]
    counts["dropped"] = len(train_examples) + len(held_examples) - len(train) - len(held)
    counts["cut"] = sum(f.severity is Severity.WARNING for f in [*long_train, *long_held]) - counts["dropped"]
    _refuse_errors(findings)
    if not train or not held:
        raise BadData("spec.dataset: no rows are left " + ("to learn from" if not train else "to evaluate on")
                      + f" after the checks: {summarise(findings)}")
    counts["train"], counts["heldOut"] = len(train), len(held)
    return PreparedData(
        train=tuple(row for _, row in train),
        train_answers=tuple(example.answer for example, _ in train),
        held_out=tuple(EvaluationRow(example, row) for example, row in held),
        findings=tuple(findings),
        counts=dict(counts),
        train_examples=tuple(example for example, _ in train),
    )


def _tokenise(examples: Sequence[Example], spec: FineTuneJobSpec, chat: ChatFormat
              ) -> tuple[list[tuple[Example, TokenRow]], list[Finding]]:
    kept, findings = [], []
    for example in examples:
        row, finding = fit(chat.row(example), example.place, spec.training.max_length, spec.training.long_rows)
        if finding:
            findings.append(finding)
        if row:
            kept.append((example, row))
    return kept, findings


def _refuse_errors(findings: Sequence[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        count = "1 row" if len(errors) == 1 else f"{len(errors)} rows"
        raise BadData(f"spec.dataset: {count} can't be used: {summarise(errors)}")
