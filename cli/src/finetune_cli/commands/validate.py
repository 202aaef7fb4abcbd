"""`finetune validate`: whether files hold jobs, or experiments, that can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
from finetune_api import ExitCode, InvalidJob, cluster_errors
from finetune_api.experiment.reading import Experiment

from finetune_cli.errors import CommandFailed
from finetune_cli.job_file import read_experiment, read_job, with_absolute_jobs
from finetune_cli.job_inputs import check_job
from finetune_cli.terminal import say
from finetune_cli.trainer import input_faults


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--data", "with_data", is_flag=True,
              help="Check the model's files and the rows too: locations, split, columns, templates, answers, schema.")
@click.option("--allow-plugin", "plugins", multiple=True, metavar="NAME",
              help="With --data: let the job use this reward plug-in, an entry point of finetune.rewards; may be "
                   "repeated.")
@click.pass_context
def validate(context: click.Context, files: tuple[Path, ...], with_data: bool, plugins: tuple[str, ...]) -> None:
    """Check the FineTuneJob or the FineTuneExperiment in each FILE, and show every error.

    Every variant of an experiment is checked like a job. An error names the variant.

    Without --data it reads FILE alone: no model, data, network or cluster. With --data it also reads the rows, and
    takes seconds; torch is not loaded. Token lengths and memory are checked by finetune run and by the cluster's
    preflight.

    The exit code is the smallest that applies to any FILE: 64 the description is wrong; 65 rows can't be used; 66 FILE,
    the model or the data set is missing; 1 the trainer is not installed. It is 0 if every FILE is right.
    """
    check = partial(_check_with_data, plugins=plugins) if with_data else _check
    codes = {_reported(partial(check, path)) for path in files}
    context.exit(min(codes - {ExitCode.OK}, default=ExitCode.OK))


def _reported(check: Callable[[], int]) -> int:
    """The exit code of a check. An error that ends it is printed."""
    try:
        return check()
    except InvalidJob as error:
        say(str(error), err=True)
        return ExitCode.BAD_CONFIG
    except CommandFailed as error:
        error.show()
        return error.exit_code


def _check(path: Path) -> int:
    experiment = read_experiment(path)
    if experiment is not None:
        _show_experiment(path, experiment)
        return ExitCode.OK
    read_job(path)
    _show_valid(path)
    return ExitCode.OK


def _check_with_data(path: Path, plugins: tuple[str, ...]) -> int:
    experiment = read_experiment(path)
    if experiment is not None:
        faults = input_faults(with_absolute_jobs(experiment, path.parent), plugins)
        if faults:
            say("\n".join([f"{path}: {len(faults)} errors", *(f"  {words}" for words, _ in faults)]), err=True)
        else:
            _show_experiment(path, experiment)
        return min((code for _, code in faults), default=ExitCode.OK)
    checked = check_job(path, plugins)
    if checked.errors:
        say(str(InvalidJob(checked.errors, str(path))), err=True)
    else:
        _show_valid(path)
    if checked.counts:
        say(f"  rows: {_in_words(checked.counts)}", err=bool(checked.errors))
    for note in checked.notes:
        say(f"  note: {note}", err=bool(checked.errors))
    return checked.exit_code


def _in_words(counts: Mapping[str, int]) -> str:
    words = f"{counts['read']} read"
    if "train" in counts:
        words += f", {counts['train']} to learn from, {counts['heldOut']} held out"
    return words


def _show_experiment(path: Path, experiment: Experiment) -> None:
    say(f"{path}: OK, {len(experiment.runs)} jobs:")
    for run in experiment.runs:
        say(f"  {run.name}" + (f" ({run.details})" if run.details else ""))


def _show_valid(path: Path) -> None:
    refused = cluster_errors(path)
    say(f"{path}: OK" + (" for finetune run; kubectl apply refuses it:" if refused else ""))
    for refusal in refused:
        say(f"  {refusal}")
