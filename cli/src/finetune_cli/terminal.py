"""The one way to a terminal: what is printed is cleaned of control characters, wherever it came from."""

from __future__ import annotations

from typing import IO, Any

import click
from finetune_api.values.printable import printable


def say(text: str, err: bool = False, file: IO[Any] | None = None) -> None:
    """Print a line, to standard output or, with `err`, to standard error."""
    click.echo(printable(text), err=err, file=file)
