"""The source of `finetune_api.generated`, the enums of reasons and exit codes; and the meanings in an enum's source."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import pairwise

from finetune_api.failures import EXPLANATIONS, FAILURE_CLASSES

_NOTICE = "`make generate` writes this file. Edit the entries there."


def reasons_module() -> str:
    """The source of `finetune_api.generated.reasons`."""
    everything = [*((one.name, one.reason, one.meaning) for one in EXPLANATIONS),
                  *((one.name, one.reason, one.cause) for one in FAILURE_CLASSES)]
    reported = [*((one.name, one.reason, one.meaning) for one in EXPLANATIONS if one.outcome),
                *((one.name, one.reason, one.cause) for one in FAILURE_CLASSES if one.exit_code is not None)]
    return (
        '"""Generated from failures/failure_classes.py and failures/explanations.py: every reason.\n\n'
        'They are the reasons of conditions, attempts, events and results.\n'
        f'{_NOTICE}\n"""\n\n'
        "from __future__ import annotations\n\nfrom enum import StrEnum\n\n\n"
        'class Reason(StrEnum):\n'
        '    """Why a job is where it is: the reason of a condition, an attempt or an event."""\n'
        f"{_members((name, repr_of(word), text) for name, word, text in everything)}\n\n"
        'class Outcome(StrEnum):\n    """How an attempt ended, as the trainer reports it in its result."""\n'
        f"{_members((name, repr_of(word), text) for name, word, text in reported)}"
    )


def exit_codes_module() -> str:
    """The source of `finetune_api.generated.exit_codes`."""
    codes = sorted((one.exit_code, one.name, one.cause) for one in FAILURE_CLASSES if one.exit_code)
    members = [("OK", "0", "A result is published. The result message has it."),
               *((name, str(code), text) for code, name, text in codes)]
    return (
        '"""Generated from failures/failure_classes.py: the exit codes of the trainer and of `finetune`.\n\n'
        f'They are those of sysexits.h where it has one for the case. {_NOTICE}\n"""\n\n'
        'from __future__ import annotations\n\nfrom enum import IntEnum\n\n\n'
        'class ExitCode(IntEnum):\n    """How the trainer ended. The operator decides by it whether another attempt '
        f'follows."""\n{_members(members)}'
    )


def member_docs(enum: type[StrEnum]) -> Iterator[tuple[str, str]]:
    """The values of an enum, each with the docstring below it in the source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(enum))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for member, docstring in pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(docstring, ast.Expr):
            yield ast.literal_eval(member.value), " ".join(ast.literal_eval(docstring.value).split())


def repr_of(word: str) -> str:
    """A word as a Python literal."""
    return f'"{word}"'


def _members(members: Iterable[tuple[str, str, str]]) -> str:
    return "".join(f"\n    {name} = {value}\n{_docstring(text)}\n" for name, value, text in members)


def _docstring(text: str) -> str:
    plain = re.sub(r" \(\[[^]]*\]\([^)]*\)\)", "", text)
    return textwrap.fill(f'"""{plain}"""', 118, initial_indent="    ", subsequent_indent="    ",
                         break_long_words=False, break_on_hyphens=False)
