"""All steps from a data set to token rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.data.chat.chat_format import ChatFormat, TokenizedExample
from finetune_trainer.data.chat.message_checks import RowFault
from finetune_trainer.data.examples import AddTargets, check_examples, refuse_errors
from finetune_trainer.data.long_rows import fit
from finetune_trainer.data.rows import (
    EvaluationRow,
    Example,
    Finding,
    PreparedData,
    Severity,
    SourceRow,
    summarise,
)
from finetune_trainer.data.sources.splits import read_splits
from finetune_trainer.errors import BadData


def prepare(spec: FineTuneJobSpec, chat: ChatFormat, scratch: Path,
            add_targets: AddTargets | None = None) -> PreparedData:
    """Read, render, check and tokenise a job's data set.

    Args:
        spec: the job's spec.
        chat: how the model writes a conversation.
        scratch: the folder for downloaded files.
        add_targets: gives examples their right answers, where the method has a reward.

    Raises:
        MissingInput: the data set does not exist.
        BadConfig: a field of the job does not fit the data set.
        BadData: rows can't be used; the message names the first ones.
    """
    learn, held_out = read_splits(spec.dataset, spec.output.s3, scratch)
    return prepare_rows(learn, held_out, spec, chat, add_targets)


def prepare_rows(learn: Sequence[SourceRow], held_out: Sequence[SourceRow] | None, spec: FineTuneJobSpec,
                 chat: ChatFormat, add_targets: AddTargets | None = None) -> PreparedData:
    """Render, check and tokenise rows that have been read; errors as in `prepare`.

    Args:
        learn: the training rows.
        held_out: the rows to evaluate on; None to hold out some of the training rows.
        spec: the job's spec.
        chat: how the model writes a conversation.
        add_targets: gives examples their right answers, where the method has a reward.
    """
    checked = check_examples(learn, held_out, spec, add_targets)
    used, judged, counts = checked.train, checked.held_out, Counter(checked.counts)
    findings = list(checked.findings)
    tokenised = [_tokenise(examples, spec, chat) for examples in (used, judged)]
    findings += [finding for _, long, notes in tokenised for finding in (*long, *notes)]
    refuse_errors(findings)
    learnt, evaluated = (written for written, _, _ in tokenised)
    counts["dropped"] = len(used) + len(judged) - len(learnt) - len(evaluated)
    counts["cut"] = sum(len(long) for _, long, _ in tokenised) - counts["dropped"]
    if not learnt or not evaluated:
        raise BadData("spec.dataset: no rows are left " + ("to train on" if not learnt else "to evaluate on")
                      + f" after the checks: {summarise(findings)}")
    counts["train"], counts["heldOut"] = len(learnt), len(evaluated)
    return PreparedData(
        train=tuple(row.tokens for row in learnt),
        train_answers=tuple(row.example.answer for row in learnt),
        held_out=tuple(EvaluationRow(row.example, row.tokens) for row in evaluated),
        findings=tuple(findings),
        counts=dict(counts),
        train_examples=tuple(row.example for row in learnt),
    )


def _tokenise(examples: Sequence[Example], spec: FineTuneJobSpec, chat: ChatFormat
              ) -> tuple[list[TokenizedExample], list[Finding], list[Finding]]:
    """The rows as ids, the findings about their lengths or texts, and a warning for each note."""
    written_rows: list[TokenizedExample] = []
    findings: list[Finding] = []
    notes: dict[str, list[str]] = {}
    for example in examples:
        try:
            written, finding = fit(example, chat, spec.training)
        except RowFault as error:
            written, finding = None, Finding(Severity.ERROR, example.location, str(error))
        if finding:
            findings.append(finding)
        if written:
            written_rows.append(written)
            for note in written.notes:
                notes.setdefault(note, []).append(example.location)
    return written_rows, findings, [
        Finding(Severity.WARNING, found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else ""), note)
        for note, found in notes.items()]
