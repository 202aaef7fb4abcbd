"""`finetune run`: a job, or an experiment, on this machine, without a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from finetune_api import ExitCode
from finetune_api.failures import exit_code_summary

from finetune_cli.errors import CommandFailed
from finetune_cli.job_file import read_experiment, read_job, with_absolute_jobs, with_absolute_locations
from finetune_cli.terminal import say
from finetune_cli.trainer import RunOptions, run_experiment, run_job

DEBUG = "finetune_cli.debug"
"""Key of click's `Context.meta` that says whether errors keep their tracebacks."""

_HELP = f"""Run the FineTuneJob in FILE on this machine, or the jobs of a FineTuneExperiment one after the other.

The exit code says how the run ended: 0 published; {exit_code_summary()}; 130 interrupted before there was anything to
keep. After 75, run the job again to resume. Of an experiment it is 0 if every job has a result or was skipped, else the
smallest of its failed jobs; a failed job does not end the others. Run an experiment again to go on: what is published
is not trained again."""


@click.command(help=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N",
              help="Serve /progress and /metrics on this port of 127.0.0.1; 0 takes a free one.")
@click.option("--rerun", is_flag=True, help="Train again, even where the same job is published already.")
@click.option("--allow-plugin", "plugins", multiple=True, metavar="NAME",
              help="Let the job use this reward plug-in, an entry point of finetune.rewards; may be repeated.")
@click.option("--result", type=click.Path(path_type=Path, dir_okay=False), metavar="PATH",
              help="Write how the job ended into this file, as JSON: exit code, scores, cost, locations.")
@click.pass_context
def run(context: click.Context, /, file: Path, plugins: tuple[str, ...], **options: Any) -> None:
    """Run the FineTuneJob or the FineTuneExperiment in FILE on this machine."""
    context.meta[DEBUG] = options["debug"]
    chosen = RunOptions(allowed_plugins=plugins, **options)
    experiment = read_experiment(file)
    if experiment is None:
        code = run_job(with_absolute_locations(read_job(file), file.parent), file, chosen)
    elif chosen.result is not None:
        raise CommandFailed("--result is for a job: an experiment writes experiment.json beside its outputs",
                            ExitCode.BAD_CONFIG)
    else:
        code = run_experiment(with_absolute_jobs(experiment, file.parent), chosen)
    if code == ExitCode.STOPPED and chosen.result is None:  # Who asked for a file reads there how it ended.
        again = [one for one in chosen.as_arguments if one != "--debug"]
        say(f"To go on: {shlex.join(['finetune', 'run', *again, str(file)])}")
    context.exit(code)
