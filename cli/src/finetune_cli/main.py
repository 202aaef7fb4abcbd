"""The entry point of `finetune`: its commands, and the exit codes of their errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from finetune_api import ExitCode, InvalidJob

from finetune_cli.commands.estimate import estimate
from finetune_cli.commands.explain import explain
from finetune_cli.commands.init import init
from finetune_cli.commands.run import DEBUG, run
from finetune_cli.commands.validate import validate
from finetune_cli.errors import CommandFailed
from finetune_cli.terminal import say

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended: 128 + SIGINT."""


@contextmanager
def _usage_errors_exit_64() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        error.exit_code = int(ExitCode.BAD_CONFIG)  # type: ignore[misc]
        raise


class Commands(click.Group):
    """A group of commands. It writes each error as a sentence to stderr and sets the exit code of its kind."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line."""
        with _usage_errors_exit_64():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            with _usage_errors_exit_64():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except InvalidJob as error:
            raise CommandFailed(str(error), ExitCode.BAD_CONFIG) from error
        except KeyboardInterrupt:
            say("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            closed_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if closed_pipe or ctx.meta.get(DEBUG):
                raise
            raise CommandFailed(f"{type(error).__name__}: {error} (finetune run --debug shows where)",
                                ExitCode.INTERNAL) from error


@click.group(cls=Commands, commands=[run, validate, estimate, init, explain])
@click.version_option(package_name="finetune-cli", prog_name="finetune")
def finetune() -> None:
    """Fine-tune a language model that one YAML file describes.

    Start with: finetune init, then finetune validate finetunejob.yaml, then finetune run finetunejob.yaml.
    """


def main() -> None:
    """Run the command line."""
    finetune()
