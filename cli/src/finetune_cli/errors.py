"""How a command ends badly: one sentence on stderr, and an exit code of `ExitCode`."""

from __future__ import annotations

from typing import IO, Any

import click
from finetune_api import ExitCode

from finetune_cli.terminal import say


class CommandFailed(click.ClickException):
    """A command ended for a reason that is known.

    Attributes:
        exit_code: what the command exits with.
    """

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = int(exit_code)  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to stderr, as it is."""
        say(self.format_message(), file=file, err=file is None)
