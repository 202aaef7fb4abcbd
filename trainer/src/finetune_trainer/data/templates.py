"""From a row's columns to question and answer: two sandboxed Jinja templates, or a column of chat messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
from finetune_api.spec.dataset import DatasetSpec
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.rows import Example, Finding, Severity, SourceRow
from finetune_trainer.errors import BadConfig

_ROLES = ("system", "user", "assistant")


def template_environment() -> ImmutableSandboxedEnvironment:
    """What templates of a job are read with: the row's columns, and nothing of Python."""
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False,
                                                keep_trailing_newline=False)
    # Jinja's own tojson escapes for HTML, which would teach the model < for <.
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment


def to_examples(rows: Sequence[SourceRow], spec: DatasetSpec) -> tuple[list[Example], list[Finding]]:
    """Every row as question and answer, and what is wrong with the rows that could not be.

    Raises:
        BadConfig: a template is not valid, reaches for what it may not, or names a column that no row has.
    """
    if spec.messages is not None:
        return _from_messages(rows, spec.messages)
    environment = template_environment()
    templates = {}
    for field, text in (("prompt", spec.prompt), ("completion", spec.completion)):
        try:
            templates[field] = environment.from_string(text or "")
        except jinja2.TemplateSyntaxError as error:
            raise BadConfig(f"spec.dataset.{field}: not a valid template: {error.message} (line {error.lineno})"
                            ) from error
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        texts = {}
        for field, template in templates.items():
            try:
                texts[field] = template.render(dict(row.columns)).strip()
            except SecurityError as error:
                raise BadConfig(f"spec.dataset.{field}: a template may use the row's columns and nothing of Python: "
                                f"{error}") from error
            except jinja2.UndefinedError as error:
                missing = _missing_column(template, environment, rows, spec, field)
                if missing:
                    raise BadConfig(missing) from error
                findings.append(Finding(Severity.ERROR, row.place, f"{field}: {error.message}"))
            except (ValueError, TypeError, ArithmeticError, LookupError, MemoryError, RecursionError) as error:
                findings.append(Finding(Severity.ERROR, row.place, f"{field}: the template fails: {error}"))
        if len(texts) < len(templates):
            continue
        empty = next((field for field, text in texts.items() if not text), None)
        if empty:
            findings.append(Finding(Severity.ERROR, row.place, f"{empty} is empty"))
            continue
        examples.append(Example(row.place, ({"role": "user", "content": texts["prompt"]},), texts["completion"]))
    return examples, findings


def _missing_column(template: jinja2.Template, environment: jinja2.Environment, rows: Sequence[SourceRow],
                    spec: DatasetSpec, field: str) -> str | None:
    """What to say where a template names a column that no row has; None where some have it."""
    text = (spec.prompt if field == "prompt" else spec.completion) or ""
    names = jinja2.meta.find_undeclared_variables(environment.parse(text))
    known = {column for row in rows for column in row.columns}
    missing = sorted(names - known)
    if not missing:
        return None
    return (f"spec.dataset.{field}: no row has a column {', '.join(missing)}; the columns are "
            f"{', '.join(sorted(known)) or 'none'}")


def _from_messages(rows: Sequence[SourceRow], column: str) -> tuple[list[Example], list[Finding]]:
    if not any(column in row.columns for row in rows):
        known = sorted({name for row in rows for name in row.columns})
        raise BadConfig(f"spec.dataset.messages: no row has a column {column}; the columns are {', '.join(known)}")
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        messages = row.columns.get(column)
        fault = _message_fault(messages)
        if fault:
            findings.append(Finding(Severity.ERROR, row.place, f"{column}: {fault}"))
        else:
            assert isinstance(messages, Sequence)
            plain = [{"role": str(m["role"]), "content": str(m["content"]).strip()} for m in messages]
            examples.append(Example(row.place, tuple(plain[:-1]), plain[-1]["content"]))
    return examples, findings


def _message_fault(messages: Any) -> str | None:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        return "write a list of at least two messages, the last one the answer"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            return f"message {number} has no role of {', '.join(_ROLES)}"
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            return f"message {number} has no content"
    if messages[-1]["role"] != "assistant" or messages[-2]["role"] != "user":
        return "the last message must be the assistant's, after the user's"
    return None
