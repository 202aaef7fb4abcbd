"""The one way to a terminal: what is printed is cleaned of control characters, wherever it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune_api.values.printable import printable
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


class Terminal(Console):
    """A console whose texts, in tables and bars too, are shown as they are: the colours are ours alone."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The parts of something to print."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def say(text: str, **how: Any) -> None:
    """Print a line; `how` is as for `print`."""
    print(printable(text), **how)  # noqa: T201
