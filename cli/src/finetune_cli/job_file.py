"""The job's file: reading it, and what its relative locations mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from finetune_api import ExitCode, FineTuneJob, load_job
from finetune_api.experiment.reading import Experiment, is_experiment, load_experiment

from finetune_cli.errors import CommandFailed


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Say what to do where a job's file can't be opened.

    Raises:
        CommandFailed: it can't.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise CommandFailed(f"{path}: there is no such file; finetune init writes a sample",
                            ExitCode.MISSING_INPUT) from error
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror or error}", ExitCode.MISSING_INPUT) from error


def read_job(path: Path) -> FineTuneJob:
    """Read the job of a file.

    Raises:
        InvalidJob: everything that is wrong with it.
        CommandFailed: the file isn't there or can't be opened.
    """
    with opening(path):
        return load_job(path)


def read_experiment(path: Path) -> Experiment | None:
    """Read the experiment of a file; None where the file holds none, and so should hold a job.

    Raises:
        InvalidJob: everything that is wrong with it.
        CommandFailed: the file isn't there or can't be opened.
    """
    with opening(path):
        return load_experiment(path) if is_experiment(path) else None


def with_absolute_jobs(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with every `file://./…` location of its jobs made absolute against `folder`."""
    runs = tuple(replace(run, job=with_absolute_locations(run.job, folder)) for run in experiment.runs)
    return replace(experiment, runs=runs)


def with_absolute_locations(job: FineTuneJob, folder: Path) -> FineTuneJob:
    """The job with every `file://./…` location made absolute against `folder`, where its file lies."""
    spec = job.spec
    model = spec.model.model_copy(update={"source": spec.model.source.relative_to_folder(folder)})
    dataset = spec.dataset.model_copy(update={"source": spec.dataset.source.relative_to_folder(folder)})
    output = spec.output.model_copy(update={"uri": spec.output.uri.relative_to_folder(folder)})
    return job.model_copy(update={
        "spec": spec.model_copy(update={"model": model, "dataset": dataset, "output": output}),
    })
