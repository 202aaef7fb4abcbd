"""What can be known of a job's model and rows in seconds, on this machine, without torch and transformers.

`finetune validate --data` shows it, and `finetune run` looks first. Every check is one that preflight and the run make
too; those that need the tokenizer (lengths, chat templates) or the model's layers are left to them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from finetune_api.exit_codes import ExitCode
from finetune_api.methods.reft import RewardType
from finetune_api.reasons import Outcome
from finetune_api.resolve import resolve_defaults
from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.data.answers.row_findings import schema_validator
from finetune_trainer.data.examples import check_examples, refuse_errors
from finetune_trainer.data.rows import Severity, summarise
from finetune_trainer.data.sources.splits import local_files, read_splits
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.scores import absent
from finetune_trainer.model.files.presence import check_presence
from finetune_trainer.rewards.rewards import Judge, with_right_answers
from finetune_trainer.run.scratch import new_scratch

T = TypeVar("T")
_BETWEEN_FIELDS = re.compile(r"; (?=spec(?:\.[A-Za-z0-9]+)+: )")
"""Between two sentences of one error, each of which begins with its field."""

QUICK_BYTES = 64 * 1024**2
"""Most bytes of local data that a quick check reads: about two seconds."""


@dataclass(frozen=True)
class InputFault:
    """Why a job can't run.

    Attributes:
        outcome: what the run would end with.
        exit_code: what the run would exit with.
        message: the fault in words, with the field in front.
    """

    outcome: Outcome
    exit_code: ExitCode
    message: str


@dataclass
class InputCheck:
    """What a check of a job's inputs found.

    Attributes:
        faults: everything that is wrong.
        notes: warnings, and what was not checked.
        counts: rows by what became of them; empty where they were not read.
    """

    faults: list[InputFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)


def check_inputs(spec: FineTuneJobSpec, allowed_plugins: Sequence[str] = (), *, quick: bool = False, model: bool = True,
                 data: bool = True) -> InputCheck:
    """Check a job's model, data set, templates, answers and schema. One wrong part doesn't hide another.

    Args:
        spec: the job's spec; its `file://` locations are absolute.
        allowed_plugins: reward plug-ins that the job may name.
        quick: leave out what takes long, or is fetched again by the run: data from elsewhere, more than `QUICK_BYTES`
            of local data, and rewards that run code.
        model: whether to check the model.
        data: whether to check the rows.
    """
    spec = resolve_defaults(spec)
    found = InputCheck()
    scratch = new_scratch()
    try:
        if model:
            note = _trying(found, lambda: check_presence(spec.model, spec.output.s3, scratch, network=not quick))
            found.notes += [note] if note else []
        if data and quick and not _is_quickly_read(spec):
            found.notes.append(f"spec.dataset.source: {spec.dataset.source} is checked while it is loaded")
        elif data:
            usable = _without_broken_schema(spec, found)
            _trying(found, lambda: _check_rows(usable, allowed_plugins, quick, scratch, found))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def _trying(found: InputCheck, check: Callable[[], T]) -> T | None:
    try:
        return check()
    except TrainerError as error:
        found.faults += [InputFault(error.outcome, error.exit_code, message)
                         for message in _BETWEEN_FIELDS.split(str(error))]
        return None


def _without_broken_schema(spec: FineTuneJobSpec, found: InputCheck) -> FineTuneJobSpec:
    """The spec, without a schema that can't be used: the rows would only find the same fault again."""
    form = spec.dataset.answer_format
    before = len(found.faults)
    _trying(found, lambda: schema_validator(form.json_schema))
    if len(found.faults) == before:
        return spec
    dataset = spec.dataset.model_copy(update={"answer_format": form.model_copy(update={"json_schema": None})})
    return spec.model_copy(update={"dataset": dataset})


def _is_quickly_read(spec: FineTuneJobSpec) -> bool:
    source = spec.dataset.source
    return source.scheme == "file" and sum(file.stat().st_size for file in local_files(source)) <= QUICK_BYTES


def _check_rows(spec: FineTuneJobSpec, allowed_plugins: Sequence[str], quick: bool, scratch: Path, found: InputCheck
                ) -> None:
    """Read the rows, render the templates and check the answers.

    Raises:
        TrainerError: the first thing that ends the check of the rows; notes and counts are in `found`.
    """
    learn, held_out = read_splits(spec.dataset, spec.output.s3, scratch)
    found.counts = {"read": len(learn) + len(held_out or ())}
    reward = spec.method.reft.reward if spec.method.reft else None
    judge = None
    if reward and not (quick and reward.type in (RewardType.PROGRAM, RewardType.PLUGIN)):
        judge = Judge(reward, allowed_plugins)
    schema = schema_validator(spec.dataset.answer_format.json_schema)
    examples = check_examples(learn, held_out, spec,
                              partial(with_right_answers, judge=judge, schema=schema) if judge else None)
    warnings = [finding for finding in examples.findings if finding.severity is Severity.WARNING]
    if warnings:
        found.notes.append(f"spec.dataset: {summarise(warnings)}")
    refuse_errors(examples.findings)
    found.counts = {**examples.counts, "train": len(examples.train), "heldOut": len(examples.held_out)}
    why = absent([example.answer for example in examples.held_out], spec.evaluation.metrics or (), schema)
    if why:
        found.notes.append(f"spec.evaluation.metrics: {why}")
