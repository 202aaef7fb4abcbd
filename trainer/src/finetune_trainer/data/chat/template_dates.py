"""Chat templates that write today's date (Llama 3.2, gpt-oss, Granite, …) get the date of the job instead.

transformers gives templates the function `strftime_now`, and otherwise only plain data. A macro of the same name at the
start of the template replaces the function.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time

_NAME = "strftime_now"
_DIRECTIVE = re.compile(r"%[-_0^#]?[A-Za-z]")
_TABLE = "finetune_date"
_MACRO = (
    "{%- macro " + _NAME + "(format) -%}{%- set date = namespace(text=format) -%}"
    "{%- for directive, text in " + _TABLE + ".items() -%}{%- set date.text = date.text | replace(directive, text) -%}"
    "{%- endfor -%}{{ date.text }}{%- endmacro +%}"
)


def is_dated(template: str) -> bool:
    """Whether a template writes the date."""
    return _NAME in template


def with_date(template: str, today: date) -> tuple[str, dict[str, dict[str, str]]]:
    """A template that writes a fixed date, and the variables that it needs.

    Args:
        template: a template that writes the date.
        today: the date; the time is midnight.
    """
    now = datetime.combine(today, time())
    # Longest first: a directive with a flag contains the one without.
    directives = sorted(set(_DIRECTIVE.findall(template)), key=lambda one: (-len(one), one))
    return _MACRO + template, {_TABLE: {directive: now.strftime(directive) for directive in directives}}
