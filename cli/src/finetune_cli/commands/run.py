"""`finetune run`: a job on this machine, without a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from finetune_api import ExitCode
from finetune_api.failures import exit_code_summary

from finetune_cli.job_file import read_job, with_absolute_locations
from finetune_cli.terminal import say
from finetune_cli.trainer import RunOptions, run_job

DEBUG = "finetune_cli.debug"
"""Key of click's `Context.meta` that says whether errors keep their tracebacks."""

_HELP = f"""Run the FineTuneJob in FILE on this machine.

The exit code says how the run ended: 0 published; {exit_code_summary()}; 130 interrupted before there was anything to
keep. After 75, run the job again to resume."""


@click.command(help=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N",
              help="Serve /progress and /metrics on this port of 127.0.0.1; 0 takes a free one.")
@click.option("--rerun", is_flag=True, help="Train again, even where the same job is published already.")
@click.option("--allow-plugin", "plugins", multiple=True, metavar="NAME",
              help="Let the job use this reward plug-in, an entry point of finetune.rewards; may be repeated.")
@click.pass_context
def run(context: click.Context, file: Path, debug: bool, port: int | None, rerun: bool, plugins: tuple[str, ...]
        ) -> None:
    """Run the FineTuneJob in FILE on this machine."""
    context.meta[DEBUG] = debug
    job = with_absolute_locations(read_job(file), file.parent)
    code = run_job(job, file, RunOptions(port, rerun, debug, plugins))
    if code == ExitCode.STOPPED:
        say(f"To go on: {_command(file, port, rerun, plugins)}")
    context.exit(code)


def _command(file: Path, port: int | None, rerun: bool, plugins: tuple[str, ...]) -> str:
    """The command line that runs the job again with the same options."""
    options = [*(["--rerun"] if rerun else []), *(["--port", str(port)] if port is not None else []),
               *(word for name in plugins for word in ("--allow-plugin", name))]
    return shlex.join(["finetune", "run", *options, str(file)])
