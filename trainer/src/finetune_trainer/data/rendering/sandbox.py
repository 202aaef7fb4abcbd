"""The sandboxed Jinja environment of row templates.

A template sees the row's data and nothing of Python. What it makes is bounded: a width, a product or a text that would
fill the memory is an error of the row.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from finetune_trainer.data.values import Null, Unwritable, as_text, joined, to_json

MAX_TEXT = 10_000_000
"""Characters of a text, items of a list and bits of a number that a template can make at most."""

_MAX_WIDTH = 10_000
"""The largest width, indentation, precision or count that a template can ask for."""

_FORMAT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?P<width>\d+|\*)?(?:\.(?P<precision>\d+|\*))?[a-zA-Z%]")
_WIDE_FILTERS = ("center", "indent", "batch", "slice", "round", "wordwrap", "tojson")
_WIDE_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes"})


class _Generator(CodeGenerator):
    """Writes `a ~ b` as every other value is written; Jinja itself would call `str`."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Formatter(SandboxedFormatter):
    """`str.format` with bounded widths."""

    def format_field(self, value: Any, format_spec: str) -> str:
        _check_widths("format", map(int, re.findall(r"\d+", format_spec)))
        return str(super().format_field(value, format_spec))


class _Environment(ImmutableSandboxedEnvironment):
    """Templates see data alone: the keys of a mapping before its methods, and a method only to call it."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["%", "*", "**", "+"])

    @staticmethod
    def joined(parts: tuple[Any, ...]) -> str:
        """`a ~ b`, bounded."""
        return _bounded(joined(parts))

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        found = super().getattr(obj.function if isinstance(obj, Unwritable) else obj, attribute)
        return _callable(found, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _callable(super().getitem(obj, argument), str(argument))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = value.__self__, value.__name__ == "format_map"
        return lambda *args, **named: _bounded(_Formatter(self).vformat(text, () if is_map else args,
                                                                        args[0] if is_map else named))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            return _formatted(left, right) if isinstance(left, str) else left % right
        if operator == "+":
            if isinstance(left, str | list) and isinstance(right, str | list):
                _check_size(len(left) + len(right))
        else:
            _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        function = obj.function if isinstance(obj, Unwritable) else None
        if function is not None:
            _check_call(function, args)
        return super().call(context, obj if function is None else function, *args, **kwargs)


def _check_call(function: Any, arguments: tuple[Any, ...]) -> None:
    """Refuse a method of a text or number whose result would fill the memory.

    Raises:
        ValueError: with the argument and the limit.
    """
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    if name in _WIDE_METHODS:
        _check_widths(name, (one for one in arguments if isinstance(one, int)))
    if isinstance(owner, str) and name == "replace" and len(arguments) >= 2 and all(
            isinstance(one, str) for one in arguments[:2]):
        _check_size(owner.count(arguments[0]) * len(arguments[1]))
    if isinstance(owner, str) and name == "join" and arguments and isinstance(arguments[0], str | list | tuple):
        _check_size(len(owner) * len(arguments[0]))


def _check_product(operator: str, left: Any, right: Any) -> None:
    """Refuse a product or a power that would fill the memory, and that no time limit could interrupt.

    Raises:
        ValueError: with the size and the limit.
    """
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, str | list | tuple) and len(value) * times > MAX_TEXT:
            raise ValueError(f"a text or list of {len(value)} times {times} is too large; the maximum is {MAX_TEXT}")
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_TEXT:
            raise ValueError(f"a number of {bits} bits is too large; the maximum is {MAX_TEXT}")


def _check_widths(name: str, widths: Any) -> None:
    widest = max((abs(width) for width in widths), default=0)
    if widest > _MAX_WIDTH:
        raise ValueError(f"{name} with {widest} is too wide; the maximum is {_MAX_WIDTH}")


def _check_size(size: int) -> None:
    if size > MAX_TEXT:
        raise ValueError(f"a text or list of {size} is too large; the maximum is {MAX_TEXT}")


def _bounded(text: str) -> str:
    _check_size(len(text))
    return text


def _formatted(form: str, values: Any) -> str:
    """`form % values`: numbers as they are, everything else as a template writes it."""
    widths = [width for found in _FORMAT.finditer(form) for width in found.group("width", "precision") if width]
    if "*" in widths:
        raise ValueError("a width of * in a format is not possible; write the number")
    _check_widths("format", map(int, widths))
    if isinstance(values, Mapping) and "%(" in form:
        return _bounded(form % {key: _formattable(item) for key, item in values.items()})
    return _bounded(form % (tuple(map(_formattable, values)) if isinstance(values, tuple) else (_formattable(values),)))


def _formattable(value: Any) -> Any:
    return value if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else as_text(value)


def _callable(value: Any, name: str) -> Any:
    if callable(value) and not isinstance(value, jinja2.Undefined | Unwritable):
        return Unwritable(f"{name} is a function, and no column", value)
    return value


def _with_bounded_widths(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or function of Jinja that refuses wide arguments; what it filters is not an argument."""
    given = 2 if hasattr(function, "jinja_pass_arg") else 1

    @functools.wraps(function)
    def bounded(*args: Any, **named: Any) -> Any:
        _check_widths(name, (one for one in (*args[given:], *named.values()) if isinstance(one, int)))
        return function(*args, **named)

    return bounded


def _join(context: Any, value: Any, d: Any = "", attribute: Any = None, *, original: Callable[..., Any]) -> Any:
    if attribute is not None:
        return original(context, value, d, attribute)
    separator, parts = as_text(d), list(map(as_text, value))
    _check_size(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def _replace(context: Any, s: Any, old: Any, new: Any, count: Any = None, *, original: Callable[..., Any]) -> Any:
    _check_size(as_text(s).count(as_text(old)) * len(as_text(new)))
    return original(context, s, old, new, count)


def template_environment() -> ImmutableSandboxedEnvironment:
    """The environment of a job's templates: the row's columns, and nothing of Python."""
    environment = _Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False,
                               finalize=as_text)
    tests, filters = environment.tests, environment.filters
    tests["none"] = lambda value: value is None or isinstance(value, Null)
    tests["string"] = lambda value: isinstance(value, str) and not isinstance(value, Null)
    # Jinja's own tojson escapes for HTML, which would teach the model < for <.
    filters["tojson"] = to_json
    filters["string"] = as_text
    filters["attr"] = jinja2.pass_environment(lambda environment, obj, name: environment.getattr(obj, name))
    filters["format"] = lambda value, *args, **named: _formatted(as_text(value), named or args)
    filters["join"] = jinja2.pass_eval_context(functools.partial(_join, original=filters["join"]))
    filters["replace"] = jinja2.pass_eval_context(functools.partial(_replace, original=filters["replace"]))
    for name in _WIDE_FILTERS:
        filters[name] = _with_bounded_widths(name, filters[name])
    lipsum: Any = environment.globals["lipsum"]
    environment.globals["lipsum"] = lambda n=5, html=True, min=20, max=100: lipsum(
        *_widths("lipsum", n, html, min, max))
    environment.globals = {name: _callable(value, name) for name, value in environment.globals.items()}
    return environment


def _widths(name: str, *arguments: Any) -> tuple[Any, ...]:
    _check_widths(name, (one for one in arguments if isinstance(one, int)))
    return arguments
