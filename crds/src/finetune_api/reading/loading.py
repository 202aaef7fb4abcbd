"""Reading a `FineTuneJob` from YAML: every error at once, each with its place, its value and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from finetune_api.explain.fields import document_field, model_at
from finetune_api.job import KIND, FineTuneJob
from finetune_api.rules import STORED_RULES, broken_rules

_SHOWN = 80
_USER_INFO = re.compile(r"//[^/\s\"]*@")
_LARGEST = 4 * 1024 * 1024


@dataclass(frozen=True)
class FieldError:
    """One error.

    Attributes:
        path: the field, such as `spec.training.batchSize`; empty for the file as a whole.
        value: what stands there, shortened; None where nothing does.
        message: what is wrong and what to write instead.
        line: line in the file, from 1, where it is known.
    """

    path: str
    value: str | None
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        found = f" (found {self.value})" if self.value is not None else ""
        return f"{place}{self.path}: {self.message}{found}" if self.path else f"{place}{self.message}{found}"


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
    return parse_job_text(_read(path), str(path))


def read_document(path: Path) -> tuple[Any, Mapping[str, int]]:
    """The one job of a YAML file as plain data, which may be wrong, and the line of every key by its dotted path.

    Raises:
        InvalidJob: it is no YAML, or holds no job or several.
        OSError: the file can't be read.
    """
    return _job_document(_read(path), str(path))


def line_of(field: str, lines: Mapping[str, int]) -> int | None:
    """The line of a field, or of the nearest field above it that is written; None where none is."""
    return _line(field, lines)


def cluster_errors(path: Path) -> tuple[FieldError, ...]:
    """Why `kubectl apply` would refuse a file that `load_job` takes: what `finetune run` alone can do.

    Raises:
        InvalidJob: it holds no job.
        OSError: the file can't be read.
    """
    document, lines = _job_document(_read(path), str(path))
    errors = [FieldError(one.path, _shown(one.value), one.message, _line(one.path, lines))
              for one in broken_rules(document, STORED_RULES)]
    return tuple(sorted(errors, key=lambda error: error.line or 0))


def _read(path: Path) -> str:
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
    document, lines = _job_document(text, origin)
    return parse_job(document, origin, lines)


def _job_document(text: str, origin: str) -> tuple[Any, Mapping[str, int]]:
    """The one job of a YAML text as plain data, with the line of every key.

    Raises:
        InvalidJob: it is no YAML, or holds no job or several.
    """
    try:
        documents = _documents(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InvalidJob([FieldError("", None, f"not valid YAML: {error.problem}{_quotes(text, error)}",
                                     mark.line + 1 if mark else None)], origin) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"the character U+{error.character:04X} can't stand in it"
        raise InvalidJob([FieldError("", None, f"not valid YAML: {character}", line)], origin) from error
    except RecursionError as error:
        raise InvalidJob([FieldError("", None, "not valid YAML: nested too deeply")], origin) from error
    present = [(document, lines) for document, lines in documents if document is not None]
    jobs = [pair for pair in present if isinstance(pair[0], Mapping) and pair[0].get("kind") == KIND]
    if not jobs and len(present) == 1:
        jobs = present
    if len(jobs) != 1:
        raise InvalidJob([FieldError("", None, f"{len(jobs)} documents of kind {KIND}: write exactly one")], origin)
    return jobs[0]


def _quotes(text: str, error: yaml.MarkedYAMLError) -> str:
    """What to write where a template has no quotes around it, or the wrong ones: braces begin a mapping of YAML."""
    marks = [mark.line for mark in (error.context_mark, error.problem_mark) if mark]
    lines = text.splitlines()[min(marks):max(marks) + 1] if marks else []
    line = next((line for line in reversed(lines) if re.search(r"\{\{|\{%", line)), None)
    if line is None:
        return ""
    fields = re.findall(r"\b(prompt|completion|system|answer|name): ", re.split(r"\{[{%]", line)[0])
    return (f"; quote it: {fields[-1] if fields else 'prompt'}: '{{{{ … }}}}' (in single quotes where it has double "
            "ones in it)")


def parse_job(document: Any, origin: str = "input", lines: Mapping[str, int] | None = None) -> FineTuneJob:
    """Validate a job given as plain data.

    Raises:
        InvalidJob: everything that is wrong with it.
    """
    lines = lines or {}
    if not isinstance(document, Mapping):
        raise InvalidJob([FieldError("", _shown(document), f"write a mapping with apiVersion, kind: {KIND}, metadata "
                                                           "and spec")], origin)
    errors: list[FieldError] = []
    for key, expected in (("apiVersion", "finetune.dev/v1alpha1"), ("kind", KIND)):
        if key not in document:
            errors.append(FieldError(key, None, f"missing: write {expected}"))
    job: FineTuneJob | None = None
    try:
        job = FineTuneJob.model_validate_json(json.dumps(document), by_alias=True, by_name=False)
    except ValidationError as failure:
        errors += [_field_error(details, lines) for details in failure.errors(include_url=False)
                   if details["loc"] or details["type"] != "value_error"]
    except (TypeError, ValueError, RecursionError) as failure:
        errors.append(FieldError("", None, f"not plain data: {failure}"))
    reported = {error.path for error in errors}
    for violation in broken_rules(document):
        if violation.path not in reported:
            errors.append(FieldError(violation.path, _shown(violation.value), violation.message,
                                     _line(violation.path, lines)))
    if errors or job is None:
        raise InvalidJob(sorted(errors, key=lambda error: error.line or 0), origin)
    return job


def _field_error(details: ErrorDetails, lines: Mapping[str, int]) -> FieldError:
    parts = [part for part in details["loc"] if part != "[key]"]
    path = ".".join(str(part) for part in parts)
    nothing = details["type"] in ("missing", "json_invalid")
    return FieldError(path, None if nothing else _shown(details["input"]),
                      _advice(details, parts), _line(path, lines))


def _advice(details: ErrorDetails, parts: Sequence[int | str]) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "json_invalid":
            return f"not plain text: {context.get('error')}"
        case "extra_forbidden":
            owner = model_at(FineTuneJob, parts[:-1])
            known = _field_names(owner) if owner else []
            close = difflib.get_close_matches(str(parts[-1]), known, n=1, cutoff=0.6)
            return "unknown field: " + (f"did you mean {close[0]}?" if close else f"write one of {', '.join(known)}")
        case "missing":
            return f"missing: {document_field(FineTuneJob, '.'.join(map(str, parts))).description}"
        case "enum" | "literal_error":
            expected = str(context.get("expected", "")).replace("'", "")
            choices = expected.replace(" or ", ", ").split(", ")
            close = difflib.get_close_matches(str(details["input"]).lower(), [c.lower() for c in choices], n=1)
            hint = next((f": did you mean {c}?" for c in choices if close and c.lower() == close[0]), "")
            return f"write {expected}{hint}"
        case "value_error":
            return str(context.get("error", details["msg"]))
        case "string_pattern_mismatch":
            return f"write text of the form {context.get('pattern')}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "write a mapping (fields below it, indented)"
        case "tuple_type" | "list_type":
            return "write a list ([a, b], or one item a line after a dash)"
        case "int_type" | "int_from_float":
            return "write a whole number, without quotes"
        case "float_type":
            return "write a number, without quotes"
        case "bool_type":
            return "write true or false"
        case "string_type":
            return "write text, in quotes if it looks like a number"
        case _:
            return str(details["msg"]).replace("Input should be", "write a value that is")


def _field_names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()
    text = _USER_INFO.sub("//…@", text)  # A password in an address must not end in a log.
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _line(path: str, lines: Mapping[str, int]) -> int | None:
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return None


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: dates stay text, 1e-4 is a number, a key written twice is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _documents(text: str) -> list[tuple[Any, dict[str, int]]]:
    """The documents of a YAML text, each with the line of every key.

    Raises:
        yaml.YAMLError, RecursionError: it can't be read.
    """
    loader = _Loader(text)
    documents: list[tuple[Any, dict[str, int]]] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            if _size(node, {}) > _LARGEST:
                raise yaml.MarkedYAMLError(problem="larger than a job can be, with its aliases written out",
                                           problem_mark=node.start_mark)
            lines: dict[str, int] = {}
            _note_lines(node, "", lines)
            documents.append((_value(loader, node), lines))
    finally:
        loader.dispose()
    return documents


def _value(loader: _Loader, node: yaml.Node) -> Any:
    """What a node stands for.

    Raises:
        yaml.MarkedYAMLError: a value is not what its tag says, or too large a number.
    """
    try:
        return loader.construct_document(node)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise yaml.MarkedYAMLError(problem=f"a value can't be read: {error}") from error


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """About how many characters a node holds with its aliases written out, in time linear in what was written.

    Raises:
        yaml.MarkedYAMLError: an alias stands inside of its own anchor.
    """
    if node not in known:
        known[node] = -1
        if isinstance(node, yaml.ScalarNode):
            known[node] = 1 + len(node.value)
        else:
            items = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
            known[node] = 1 + sum(_size(item, known) for item in items)
    if known[node] < 0:
        raise yaml.MarkedYAMLError(problem="an alias stands inside of its own anchor", problem_mark=node.start_mark)
    return known[node]


def _note_lines(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    """Record the line of every key below a node.

    Raises:
        yaml.MarkedYAMLError: a key stands twice in a mapping.
    """
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} stands twice", problem_mark=key.start_mark)
            seen.add(name)
            below = f"{path}.{name}" if path else name
            lines[below] = key.start_mark.line + 1
            _note_lines(value, below, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{path}.{index}"] = item.start_mark.line + 1
            _note_lines(item, f"{path}.{index}", lines)
