"""The reference of the command line, from the commands of `finetune_cli` themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click
from finetune_cli.main import finetune

_HEAD = """\
# The command line

Generated from finetune_cli by `make generate`; edit the commands instead. `finetune COMMAND --help` shows the same in a
shell.
"""


def commands_page() -> str:
    """Every command of `finetune`, its arguments and its options."""
    lines = [_HEAD]
    for name, command in sorted(finetune.commands.items()):
        lines += [f"## finetune {name}", "", *_command(click.Context(command, info_name=f"finetune {name}"))]
    return "\n".join(lines).rstrip() + "\n"


def _command(context: click.Context) -> Iterator[str]:
    yield from (f"    {context.command.get_usage(context).removeprefix('Usage: ')}", "")
    for paragraph in (context.command.help or "").replace("\b", "").split("\n\n"):
        yield from (" ".join(paragraph.split()), "")
    options = [option for option in context.command.get_params(context) if isinstance(option, click.Option)]
    yield from ("| option | meaning |", "|---|---|")
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            names, text = (part.replace("|", "\\|") for part in record)
            yield f"| `{names}` | {' '.join(text.split())} |"
    yield ""
