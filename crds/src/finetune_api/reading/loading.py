"""Reading a `FineTuneJob` from YAML: every error at once, each with its line, its value and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from finetune_api.job import KIND, FineTuneJob
from finetune_api.reading.field_errors import FieldError, field_error, line_of, shown
from finetune_api.reading.yaml_documents import YamlFault, read_documents
from finetune_api.rules import RULES, STORED_RULES, Rule, broken_rules

__all__ = ["FieldError", "InvalidJob", "cluster_errors", "load_job", "parse_job", "parse_job_text",
           "read_document"]

class InvalidJob(ValueError):
    """A description that is no valid `FineTuneJob`; `errors` has everything that is wrong with it."""

    def __init__(self, errors: Sequence[FieldError], origin: str) -> None:
        self.errors = tuple(errors)
        self.origin = origin
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        super().__init__("\n".join([f"{origin}: {count}", *(f"  {error}" for error in errors)]))


def load_job(path: Path) -> FineTuneJob:
    """Read the one `FineTuneJob` of a YAML file; `file://./…` locations are relative to the file's folder.

    Raises:
        InvalidJob: everything that is wrong with it.
        OSError: the file can't be read.
    """
    return parse_job_text(read_text(path), str(path))


def read_document(path: Path) -> tuple[Any, Mapping[str, int]]:
    """The one job of a YAML file as plain data, which may be wrong, and the line of every key by its dotted path.

    Raises:
        InvalidJob: it is no YAML, or holds no job or several.
        OSError: the file can't be read.
    """
    return document_of(read_text(path), str(path), KIND)


def cluster_errors(path: Path) -> tuple[FieldError, ...]:
    """Why `kubectl apply` would refuse a file that `load_job` takes: what `finetune run` alone can do.

    Raises:
        InvalidJob: it holds no job.
        OSError: the file can't be read.
    """
    document, lines = document_of(read_text(path), str(path), KIND)
    errors = [FieldError(one.path, shown(one.value), one.message, line_of(one.path, lines))
              for one in broken_rules(document, STORED_RULES)]
    return tuple(sorted(errors, key=lambda error: error.line or 0))


def kinds(path: Path) -> tuple[Any, ...]:
    """The kind of each document of a YAML file, as it is written; empty where the file is no YAML.

    Raises:
        OSError: the file can't be read.
    """
    try:
        documents = read_documents(read_text(path))
    except (YamlFault, InvalidJob):
        return ()
    return tuple(document.get("kind") for document, _ in documents if isinstance(document, Mapping))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InvalidJob: it is not UTF-8.
        OSError: it can't be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJob([FieldError("", None, f"not UTF-8 at byte {error.start}: save the file as UTF-8")],
                         str(path)) from error


def parse_job_text(text: str, origin: str = "input") -> FineTuneJob:
    """Read the one `FineTuneJob` of a YAML text; documents of other kinds are passed over.

    Raises:
        InvalidJob: everything that is wrong with it.
    """
    document, lines = document_of(text, origin, KIND)
    return parse_job(document, origin, lines)


def document_of(text: str, origin: str, kind: str) -> tuple[Any, Mapping[str, int]]:
    """The one document of a kind in a YAML text as plain data, with the line of every key.

    Raises:
        InvalidJob: it is no YAML, or holds no such document or several.
    """
    try:
        documents = read_documents(text)
    except YamlFault as fault:
        raise InvalidJob([FieldError("", None, fault.message, fault.line)], origin) from fault
    present = [(document, lines) for document, lines in documents if document is not None]
    jobs = [pair for pair in present if isinstance(pair[0], Mapping) and pair[0].get("kind") == kind]
    if not jobs and len(present) == 1:
        jobs = present
    if len(jobs) != 1:
        raise InvalidJob([FieldError("", None, f"{len(jobs)} documents of kind {kind}: write exactly one")], origin)
    return jobs[0]


def parse_job(document: Any, origin: str = "input", lines: Mapping[str, int] | None = None) -> FineTuneJob:
    """Validate a job given as plain data.

    Raises:
        InvalidJob: everything that is wrong with it.
    """
    job, errors = validated(FineTuneJob, document, RULES, lines or {})
    if errors or job is None:
        raise InvalidJob(errors, origin)
    return job


ResourceT = TypeVar("ResourceT", bound=BaseModel)


def validated(resource: type[ResourceT], document: Any, rules: Sequence[Rule], lines: Mapping[str, int]
              ) -> tuple[ResourceT | None, list[FieldError]]:
    """A document as its resource, and everything that is wrong with it, in the order of its lines.

    Args:
        resource: the model of the resource, whose name is its kind.
        document: the document as plain data.
        rules: the rules that join fields.
        lines: line of every key by its dotted path.
    """
    kind = resource.__name__
    if not isinstance(document, Mapping):
        return None, [FieldError("", shown(document), f"write a mapping with apiVersion, kind: {kind}, metadata "
                                                      "and spec")]
    errors: list[FieldError] = []
    for key, expected in (("apiVersion", "finetune.dev/v1alpha1"), ("kind", kind)):
        if key not in document:
            errors.append(FieldError(key, None, f"missing: write {expected}"))
    made: ResourceT | None = None
    try:
        made = resource.model_validate_json(json.dumps(document), by_alias=True, by_name=False)
    except ValidationError as failure:
        errors += [field_error(details, lines, resource) for details in failure.errors(include_url=False)
                   if details["loc"] or details["type"] != "value_error"]
    except (TypeError, ValueError, RecursionError) as failure:
        errors.append(FieldError("", None, f"the file has a value that JSON cannot hold ({failure}): write text, "
                                 "a number, true, false, null, a list or a mapping"))
    reported = {error.path for error in errors}
    for violation in broken_rules(document, tuple(rules)):
        if violation.path not in reported:
            errors.append(FieldError(violation.path, shown(violation.value), violation.message,
                                     line_of(violation.path, lines)))
    return made, sorted(errors, key=lambda error: error.line or 0)
