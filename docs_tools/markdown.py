"""What the checks read of a page: its lines of prose, its code, its links and its headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_FENCE = re.compile(r"^\s*(```+|~~~+)")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")


@dataclass(frozen=True)
class Code:
    """A piece of code in a page.

    Attributes:
        line: the line where it stands, from 1.
        text: the code, without its marks; a span in a sentence, or one line of a block.
        in_block: whether it is a line of a block.
    """

    line: int
    text: str
    in_block: bool


@dataclass(frozen=True)
class Page:
    """A page of Markdown.

    Attributes:
        path: its file.
        text: its content.
    """

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        """The page in a file."""
        return cls(path, path.read_text(encoding="utf-8"))

    @cached_property
    def lines(self) -> list[tuple[int, str, bool]]:
        """Every line: its number, its text, and whether it belongs to a block of code."""
        lines, fence, before_is_blank, indented = [], "", True, False
        for number, line in enumerate(self.text.splitlines(), start=1):
            mark = _FENCE.match(line)
            if mark and (not fence or mark[1].startswith(fence)):
                fence = "" if fence else mark[1]
                lines.append((number, "", True))
                continue
            begins = line.startswith("    ") and (before_is_blank or indented)
            indented = begins or (indented and not line.strip())
            lines.append((number, line, bool(fence) or begins))
            before_is_blank = not line.strip() or line.startswith("#")
        return lines

    @cached_property
    def prose(self) -> str:
        """The page with its blocks of code blank, line for line."""
        return "\n".join("" if in_block else line for _, line, in_block in self.lines)

    @cached_property
    def code(self) -> list[Code]:
        """Every span of code and every line of a block."""
        return list(self._code())

    def _code(self) -> Iterator[Code]:
        for number, line, in_block in self.lines:
            if in_block:
                yield Code(number, line, True)
            else:
                yield from (Code(number, span, False) for span in _SPAN.findall(line))

    @cached_property
    def links(self) -> list[tuple[int, str]]:
        """Every link's line and target."""
        plain = _SPAN.sub(lambda span: "`" * len(span[0]), self.prose)
        return [(plain.count("\n", 0, link.start()) + 1, link[1]) for link in _LINK.finditer(plain)]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as GitHub and the site make them."""
        headings = [found[1] for line in self.prose.splitlines() if (found := _HEADING.match(line))]
        plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings)
        return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}
