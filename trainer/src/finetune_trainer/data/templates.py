"""From a row's columns to question and answer, by two sandboxed Jinja templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import jinja2
import jinja2.meta
from finetune_api.spec.dataset import DatasetSpec
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.conversations import from_messages
from finetune_trainer.data.rows import Example, Finding, Severity, SourceRow, known_columns
from finetune_trainer.data.values import (
    NoText,
    Null,
    Unwritable,
    as_data,
    as_text,
    joined,
    surrogate,
    to_json,
    trimmed,
)
from finetune_trainer.errors import BadConfig, first_line

_ROW = "row"
_MOST = 10_000_000
_WORD = re.compile(r"(?!(?:if|for|in|is|not|and|or|else|true|false|none)\Z)[^\W\d]\w*", re.IGNORECASE)


class _Generator(CodeGenerator):
    """Writes `a ~ b` as every other value is written; Jinja itself would call `str`."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    """Templates see data alone: a mapping's keys before its methods, and a method only to call it."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["%", "*", "**"])
    joined = staticmethod(joined)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        found = super().getattr(obj.function if isinstance(obj, Unwritable) else obj, attribute)
        return _callable(found, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _callable(super().getitem(obj, argument), str(argument))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            return _formatted(left, right) if isinstance(left, str) else left % right
        _refuse_endless(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        function = obj.function if isinstance(obj, Unwritable) else None
        return super().call(context, obj if function is None else function, *args, **kwargs)


def _refuse_endless(operator: str, left: Any, right: Any) -> None:
    """Refuse a product or a power that nobody means, and that no time limit could interrupt.

    Raises:
        ValueError: the result would fill the memory.
    """
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, str | list | tuple) and len(value) * times > _MOST:
            raise ValueError(f"{times} times a text or list of {len(value)} is too much; {_MOST} is the most")
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MOST:
            raise ValueError(f"a number of {bits} bits is too much; {_MOST} is the most")


def _formatted(form: str, values: Any) -> str:
    """`form % values`: numbers as they are, everything else as a template writes it."""
    if isinstance(values, Mapping) and "%(" in form:
        return form % {key: _formattable(item) for key, item in values.items()}
    return form % (tuple(map(_formattable, values)) if isinstance(values, tuple) else (_formattable(values),))


def _formattable(value: Any) -> Any:
    return value if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else as_text(value)


def _callable(value: Any, name: str) -> Any:
    if callable(value) and not isinstance(value, jinja2.Undefined | Unwritable):
        return Unwritable(f"{name} is a function, and no column", value)
    return value


def template_environment() -> ImmutableSandboxedEnvironment:
    """What templates of a job are read with: the row's columns, and nothing of Python."""
    environment = _Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False,
                               finalize=as_text)
    environment.globals = {name: _callable(value, name) for name, value in environment.globals.items()}
    tests, filters = environment.tests, environment.filters
    tests["none"] = lambda value: value is None or isinstance(value, Null)
    tests["string"] = lambda value: isinstance(value, str) and not isinstance(value, Null)
    # Jinja's own tojson escapes for HTML, which would teach the model < for <.
    filters["tojson"] = to_json
    filters["string"] = as_text
    filters["attr"] = jinja2.pass_environment(lambda environment, obj, name: environment.getattr(obj, name))
    filters["format"] = lambda value, *args, **named: _formatted(as_text(value), named or args)
    join = filters["join"]
    filters["join"] = jinja2.pass_eval_context(
        lambda context, value, d="", attribute=None: as_text(d).join(map(as_text, value)) if attribute is None
        else join(context, value, d, attribute))
    return environment


class RowTemplate:
    """A template over the columns of a row: each by its name, and all of them as `row["any name"]`.

    Args:
        text: the template.
        field: the job's field that holds it.
        columns: the names of all columns, so that a name that no row has is the template's fault; without them it is
            the row's.

    Raises:
        BadConfig: it is not valid.
    """

    def __init__(self, text: str, field: str, columns: Sequence[str] = ()) -> None:
        self._field = field
        self._columns = columns
        environment = template_environment()
        self._functions = set(environment.globals) - set(self._columns)
        try:
            # Blanks around a template are the layout of its YAML; those in it, and in the columns, are the author's.
            self._template = environment.from_string(text.strip())
            self._missing = jinja2.meta.find_undeclared_variables(environment.parse(text)) - {_ROW, *columns}
        except jinja2.TemplateSyntaxError as error:
            raise BadConfig(f"{field}: not a valid template: {error.message} (line {error.lineno}){self._odd_columns()}"
                            ) from error
        except (RecursionError, ValueError) as error:
            raise BadConfig(f"{field}: not a valid template: {error}") from error

    def render(self, data: Mapping[str, Any]) -> str:
        """The text of a row, without blank lines before and blanks after it.

        Args:
            data: the row's columns, by `row_data`.

        Raises:
            BadConfig: the template reaches for what it may not, or names a column that no row has.
            ValueError: it fails for this row; the message says why.
        """
        try:
            text = trimmed(self._template.render({_ROW: data, **data}))
        except SecurityError as error:
            raise BadConfig(f"{self._field}: a template may use the row's columns and nothing of Python: {error}"
                            ) from error
        except jinja2.UndefinedError as error:
            self._refuse(self._missing)
            raise ValueError(f"{error.message}{self._odd_columns()}") from error
        except NoText as error:
            self._refuse({str(error).partition(" is a function")[0]} & self._functions)
            raise ValueError(str(error)) from error
        # Whatever a template does with data ends here: the row is named, and no code of ours is in between.
        except Exception as error:
            raise ValueError(f"the template fails: {first_line(error)}") from error
        if fault := surrogate(text):
            raise ValueError(fault)
        return text

    def _refuse(self, missing: set[str]) -> None:
        if missing and self._columns:
            raise BadConfig(f"{self._field}: no row has a column {', '.join(sorted(missing))}; the columns are "
                            f"{', '.join(self._columns) or 'none'}{self._odd_columns()}")

    def _odd_columns(self) -> str:
        """How to write the columns whose names are no words of Jinja."""
        odd = next((name for name in self._columns if not _WORD.fullmatch(name)), None)
        return f'; a column such as {odd!r} is written {{{{ row["{odd}"] }}}}, all in single quotes' if odd else ""


def row_data(row: SourceRow) -> dict[str, Any]:
    """A row's columns as templates see them.

    Raises:
        ValueError: a column is nested too deeply.
    """
    try:
        return {name: as_data(value) for name, value in row.columns.items()}
    except RecursionError as error:
        raise ValueError("a column is nested too deeply to be read") from error


def to_examples(rows: Sequence[SourceRow], spec: DatasetSpec) -> tuple[list[Example], list[Finding]]:
    """Every row as question and answer, and what is wrong with the rows that could not be.

    Raises:
        BadConfig: a template is not valid, reaches for what it may not, or names a column that no row has.
    """
    if spec.messages is not None:
        return from_messages(rows, spec.messages)
    columns = known_columns(rows)
    question = RowTemplate(spec.prompt or "", "spec.dataset.prompt", columns)
    answer = RowTemplate(spec.completion or "", "spec.dataset.completion", columns)
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        texts = {}
        try:
            data = row_data(row)
        except ValueError as error:
            findings.append(Finding(Severity.ERROR, row.place, str(error)))
            continue
        for field, template in (("prompt", question), ("completion", answer)):
            try:
                texts[field] = template.render(data)
            except ValueError as error:
                findings.append(Finding(Severity.ERROR, row.place, f"{field}: {error}"))
        if len(texts) < 2:
            continue
        empty = next((field for field, text in texts.items() if not text), None)
        if empty:
            findings.append(Finding(Severity.ERROR, row.place, f"{empty} is empty"))
        else:
            examples.append(Example(row.place, ({"role": "user", "content": texts["prompt"]},), texts["completion"]))
    return examples, findings
