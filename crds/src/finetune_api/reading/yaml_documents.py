"""The documents of a YAML text as plain data, with the line of every key; what is no YAML, in words."""

from __future__ import annotations

import re
from typing import Any

import yaml

_LARGEST = 4 * 1024 * 1024


class YamlFault(Exception):
    """A text is not valid YAML."""

    def __init__(self, message: str, line: int | None = None) -> None:
        """Keep what is wrong.

        Args:
            message: what is wrong and what to write instead.
            line: line in the text, from 1, where it is known.
        """
        super().__init__(message)
        self.message = message
        self.line = line


def read_documents(text: str) -> list[tuple[Any, dict[str, int]]]:
    """The documents of a YAML text, each with the line of every key by its dotted path.

    Raises:
        YamlFault: it is not valid YAML.
    """
    try:
        return _documents(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        advice = _indentation(text, error) or f"{error.problem}{_quotes(text, error)}"
        raise YamlFault(f"not valid YAML: {advice}", mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlFault(f"not valid YAML: it has the character U+{error.character:04X}, which YAML does not allow; "
                        "remove it", line) from error
    except RecursionError as error:
        raise YamlFault("not valid YAML: nested too deeply") from error


def _indentation(text: str, error: yaml.MarkedYAMLError) -> str | None:
    """What is wrong with a line's indentation, in words; None where the fault is another one."""
    mark, block = error.problem_mark, error.context_mark
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return None
    line = lines[mark.line]
    written = len(line) - len(line.lstrip(" "))
    if "\t" in line[:len(line) - len(line.lstrip())]:
        return "the line is indented with a tab; indent it with spaces"
    problem = error.problem or ""
    if problem.startswith("mapping values are not allowed"):
        return _unexpected_key(lines, mark.line, written)
    if mark.column != written or not problem.startswith("expected <block end>"):
        return None
    if line.lstrip().startswith("- "):
        above = next((one for one in range(mark.line - 1, -1, -1) if lines[one].lstrip().startswith("- ")), None)
        same = f", {_spaces(lines[above].index('-'))}, like line {above + 1}" if above is not None else ""
        return f"the item is indented by {_spaces(written)}; all items of a list have the same indentation{same}"
    if block is None:
        return None
    return (f"{_key(line)} is indented by {_spaces(written)}, which no line above it is; indent it by "
            f"{_spaces(block.column)}, like {_key(lines[block.line])} in line {block.line + 1}, or by more to put it "
            "below the line before")


def _unexpected_key(lines: list[str], at: int, written: int) -> str | None:
    """Why a key is not allowed where it stands: a value with a colon, or a key below a value."""
    line, before = lines[at], next((one for one in range(at - 1, -1, -1) if lines[one].strip()), None)
    if "{" in line:
        return None  # A template without quotes.
    if line.count(": ") > 1:
        key, _, value = line.strip().partition(": ")
        return f"the value of {key} has a colon: put it in quotes, {key}: '{value}'"
    if before is None or written <= len(lines[before]) - len(lines[before].lstrip(" ")):
        return None
    above = _key(lines[before])
    return (f"{_key(line)} is indented below {above} in line {before + 1}, which has a value on its own line; remove "
            f"that value, or indent {_key(line)} like {above}")


def _key(line: str) -> str:
    return line.strip().partition(":")[0]


def _spaces(count: int) -> str:
    return "1 space" if count == 1 else f"{count} spaces"


def _quotes(text: str, error: yaml.MarkedYAMLError) -> str:
    """What to write if a template has no quotes, or the wrong ones: a brace begins a mapping in YAML."""
    marks = [mark.line for mark in (error.context_mark, error.problem_mark) if mark]
    lines = text.splitlines()[min(marks):max(marks) + 1] if marks else []
    line = next((line for line in reversed(lines) if re.search(r"\{\{|\{%", line)), None)
    if line is None:
        return ""
    fields = re.findall(r"\b(prompt|completion|system|answer|name): ", re.split(r"\{[{%]", line)[0])
    return (f"; quote it: {fields[-1] if fields else 'prompt'}: '{{{{ … }}}}' (in single quotes where it has double "
            "ones in it)")


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a date is text, 1e-4 is a number, and a repeated key is an error."""


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
