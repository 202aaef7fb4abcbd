"""A template over a row's columns, rendered by sandboxed Jinja."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError

from finetune_trainer.data.rendering.sandbox import MAX_TEXT, template_environment
from finetune_trainer.data.repeatable import has_choices, repeatable_choices
from finetune_trainer.data.rows import SourceRow
from finetune_trainer.data.time_limit import TookTooLong, within
from finetune_trainer.data.values import NoText, as_data, surrogate, to_json, trimmed
from finetune_trainer.errors import BadConfig, first_line

_ROW = "row"
_SECONDS = 10.0
"""The longest that the template of one row can take."""
_WORD = re.compile(r"(?!(?:if|for|in|is|not|and|or|else|true|false|none)\Z)[^\W\d]\w*", re.IGNORECASE)


class RowTemplate:
    """A template over the columns of a row: each by its name, and all of them as `row["any name"]`.

    Args:
        text: the template.
        field: the job's field that holds it, for messages.
        columns: the names of all columns. With them a name that no row has is an error of the template; without them
            it is an error of the row.

    Raises:
        BadConfig: the template is not valid.
    """

    def __init__(self, text: str, field: str, columns: Sequence[str] = ()) -> None:
        self._field = field
        self._columns = columns
        environment = template_environment()
        self._has_choices = has_choices(text)
        self._functions = set(environment.globals) - set(self._columns)
        try:
            # Blanks around a template come from its YAML. Blanks within it, and in the columns, are kept.
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
            BadConfig: the template uses what it may not use, or names a column that no row has.
            ValueError: the template fails for this row; the message says why.
        """
        try:
            with repeatable_choices(_seed(data)) if self._has_choices else nullcontext():
                text = trimmed(within(_SECONDS, self._write, data))
        except SecurityError as error:
            raise BadConfig(f"{self._field}: a template may use the row's columns and nothing of Python: {error}"
                            ) from error
        except jinja2.UndefinedError as error:
            self._refuse(self._missing)
            raise ValueError(f"{error.message}{self._odd_columns()}") from error
        except NoText as error:
            self._refuse({str(error).partition(" is a function")[0]} & self._functions)
            raise ValueError(str(error)) from error
        except TookTooLong as error:
            raise ValueError(f"the template takes more than {_SECONDS:g} s; make its loops smaller") from error
        # A template is somebody else's code and may raise anything: it is an error of the row.
        except Exception as error:
            raise ValueError(f"the template fails: {first_line(error)}") from error
        if fault := surrogate(text):
            raise ValueError(fault)
        return text

    def _write(self, data: Mapping[str, Any]) -> str:
        parts, size = [], 0
        for part in self._template.generate({_ROW: data, **data}):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT:
                raise ValueError(f"its text has more than {MAX_TEXT} characters")
        return "".join(parts)

    def _refuse(self, missing: set[str]) -> None:
        if missing and self._columns:
            raise BadConfig(f"{self._field}: no row has a column {', '.join(sorted(missing))}; the columns are "
                            f"{', '.join(self._columns) or 'none'}{self._odd_columns()}")

    def _odd_columns(self) -> str:
        """How to write columns whose names are not valid names in Jinja."""
        odd = next((name for name in self._columns if not _WORD.fullmatch(name)), None)
        if odd is None:
            return ""
        return f'; a column such as {odd!r} is written {{{{ row["{odd}"] }}}}, in YAML all in single quotes'


def _seed(data: Mapping[str, Any]) -> str:
    """What decides a row's random choices: its data."""
    try:
        return to_json(data)
    except (NoText, ValueError):
        return ",".join(data)


def row_data(row: SourceRow) -> dict[str, Any]:
    """A row's columns as templates see them.

    Raises:
        ValueError: a column is nested too deeply.
    """
    try:
        return {name: as_data(value) for name, value in row.columns.items()}
    except RecursionError as error:
        raise ValueError("a column is nested too deeply to be read") from error
