"""Chat templates that write today's date (Llama 3.2, gpt-oss, Granite, …), and the day that a job has for them.

transformers gives templates a function `strftime_now`, and hands them plain data alone, so no other function. A macro
of that name at a template's head takes its place.
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
    """A template that takes a day for today, and the variables that it needs for that.

    Args:
        template: a template that writes the date.
        today: the day; its time of day is midnight.
    """
    now = datetime.combine(today, time())
    # Longest first: a directive with a flag holds the one without.
    directives = sorted(set(_DIRECTIVE.findall(template)), key=lambda one: (-len(one), one))
    return _MACRO + template, {_TABLE: {directive: now.strftime(directive) for directive in directives}}
