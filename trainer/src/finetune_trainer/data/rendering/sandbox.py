"""The sandboxed Jinja environment of row templates: it sees data and nothing of Python, and bounds what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.values import Null, Unwritable, as_text, joined, to_json

_MOST = 10_000_000


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
