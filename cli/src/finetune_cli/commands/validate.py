"""`finetune validate`: whether files hold jobs that can work."""

from __future__ import annotations

from pathlib import Path

import click
from finetune_api import ExitCode, InvalidJob, cluster_errors

from finetune_cli.errors import CommandFailed
from finetune_cli.job_file import read_job
from finetune_cli.terminal import say


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, files: tuple[Path, ...]) -> None:
    """Check the FineTuneJob in each FILE, and show everything that is wrong with it.

    Needs no cluster, model, data or network. Exits with 64 if any job is invalid, else with 66 if any file can't be
    read.
    """
    codes = {_check(path) for path in files}
    context.exit(next((code for code in (ExitCode.BAD_CONFIG, ExitCode.MISSING_INPUT) if code in codes), ExitCode.OK))


def _check(path: Path) -> int:
    try:
        read_job(path)
    except InvalidJob as error:
        say(str(error), err=True)
        return ExitCode.BAD_CONFIG
    except CommandFailed as error:
        error.show()
        return error.exit_code
    refused = cluster_errors(path)
    say(f"{path}: OK" + (" for finetune run; kubectl apply refuses it:" if refused else ""))
    for refusal in refused:
        say(f"  {refusal}")
    return ExitCode.OK
