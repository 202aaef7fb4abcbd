"""A job's model and rows, checked with the spec: everything that is wrong with a file is reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api import ExitCode, FieldError, FineTuneJob, InvalidJob, parse_job
from finetune_api.reading.field_errors import line_of
from finetune_api.reading.loading import read_document
from finetune_api.rules import SMALLEST_SPEC

from finetune_cli import trainer
from finetune_cli.job_file import opening, with_absolute_locations

_FIELD = re.compile(r"(spec(?:\.[A-Za-z0-9]+)*): ", re.ASCII)


@dataclass(frozen=True)
class CheckedJob:
    """What was found in a job's file, its model and its rows.

    Attributes:
        errors: everything that is wrong, in the order of the file.
        exit_code: what the command exits with.
        notes: warnings, and what was not checked.
        counts: rows by what becomes of them; empty where they were not read.
    """

    errors: tuple[FieldError, ...]
    exit_code: ExitCode
    notes: tuple[str, ...]
    counts: Mapping[str, int]


def check_job(path: Path, allowed_plugins: Sequence[str]) -> CheckedJob:
    """Check a job's spec, model and rows.

    Args:
        path: the job's file.
        allowed_plugins: reward plug-ins that the job may name.

    Raises:
        InvalidJob: the file holds no job.
        CommandFailed: the file can't be opened, or the trainer isn't installed.
    """
    with opening(path):
        document, lines = read_document(path)
    errors: list[FieldError] = []
    job: FineTuneJob | None
    try:
        job = parse_job(document, str(path), lines)
    except InvalidJob as invalid:
        errors = list(invalid.errors)
        job = _checkable_part(document, errors)
    if job is None:
        return CheckedJob(tuple(errors), ExitCode.BAD_CONFIG,
                          ("model and rows were not checked: correct the errors first",), {})
    wrong = {_section(error) for error in errors}
    found = trainer.check_inputs(with_absolute_locations(job, path.parent).spec, model="model" not in wrong,
                                 data="dataset" not in wrong, allowed_plugins=allowed_plugins)
    codes = {ExitCode.BAD_CONFIG} if errors else set()
    for fault in found.faults:
        codes.add(fault.exit_code)
        errors.append(_with_line(fault.message, lines))
    notes = [f"spec.{section} was not checked any further: correct its errors first"
             for section in ("model", "dataset") if section in wrong]
    return CheckedJob(tuple(sorted(errors, key=lambda error: error.line or 0)),
                      min(codes, default=ExitCode.OK), (*found.notes, *notes), found.counts)


def _checkable_part(document: Any, errors: Sequence[FieldError]) -> FineTuneJob | None:
    """The job with every wrong section left out; None where what is left is no job either."""
    spec = document.get("spec") if isinstance(document, Mapping) else None
    if not isinstance(spec, Mapping):
        return None
    wrong = {_section(error) for error in errors}
    kept = {name: value for name, value in spec.items() if name not in wrong}
    try:
        return parse_job({**_NAMED, "spec": {**SMALLEST_SPEC, **kept}})
    except InvalidJob:
        return None


_NAMED = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "unnamed"}}


def _section(error: FieldError) -> str:
    """The part of the spec that an error lies in, such as `training`; empty outside of the spec."""
    first, _, rest = error.path.partition(".")
    return rest.partition(".")[0] if first == "spec" else ""


def _with_line(message: str, lines: Mapping[str, int]) -> FieldError:
    """A sentence of the trainer as an error of its field."""
    named = _FIELD.match(message)
    if named is None:
        return FieldError("", None, message)
    return FieldError(named[1], None, message[named.end():], line_of(named[1], lines))
