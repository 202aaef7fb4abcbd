"""The one place where `finetune` reaches the trainer. It is imported on use: it may be missing, and takes seconds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api import ExitCode, FineTuneJob, FineTuneJobSpec
from finetune_api.experiment.reading import Experiment

from finetune_cli.errors import CommandFailed

if TYPE_CHECKING:
    from finetune_trainer.run.local_check import InputCheck


@contextmanager
def _importing(otherwise: str = "", debug: bool = False) -> Iterator[None]:
    """Say what to install where the trainer can't be imported.

    Args:
        otherwise: what else can be done, in words.
        debug: raise the import error itself.

    Raises:
        CommandFailed: it can't.
    """
    try:
        yield
    except ImportError as error:
        if debug:
            raise
        raise CommandFailed(f"the trainer can't be loaded ({error}): install it with pip install 'finetune-cli[run]'"
                            f"{otherwise}", ExitCode.INTERNAL) from error


@dataclass(frozen=True)
class RunOptions:
    """How `finetune run` runs a job.

    Attributes:
        port: port of `/progress` and `/metrics` on the loopback interface; None serves nothing.
        rerun: train again even if the same job is published already.
        debug: show the traceback of an error.
        allowed_plugins: reward plug-ins that the job may name.
        result: the file that gets the result as JSON; None writes none.
    """

    port: int | None
    rerun: bool
    debug: bool
    allowed_plugins: tuple[str, ...]
    result: Path | None = None

    @property
    def as_arguments(self) -> list[str]:
        """The same on a command line, without the result."""
        return [*(["--rerun"] if self.rerun else []), *(["--debug"] if self.debug else []),
                *(["--port", str(self.port)] if self.port is not None else []),
                *(word for name in self.allowed_plugins for word in ("--allow-plugin", name))]


def run_job(job: FineTuneJob, file: Path, options: RunOptions) -> int:
    """Run a job on this machine and show it; the exit code says how it ended.

    Args:
        job: the job; its `file://` locations are absolute.
        file: where it is written.
        options: how to run it.

    Raises:
        CommandFailed: the trainer isn't installed.
    """
    with _importing(f", or run the job on a cluster with kubectl apply -f {file}", options.debug):
        from finetune_trainer.progress.terminal import Terminal
        from finetune_trainer.run.local import LocalOptions
        from finetune_trainer.run.local import run_job as run
    return run(job, Terminal(), LocalOptions(**vars(options)))


def run_experiment(experiment: Experiment, options: RunOptions) -> int:
    """Run an experiment on this machine, each job by `finetune run` in a process of its own.

    Args:
        experiment: the experiment; `file://` locations of its jobs are absolute.
        options: how to run each job.

    Raises:
        CommandFailed: the trainer isn't installed.
    """
    with _importing(debug=options.debug):
        from finetune_trainer.progress.terminal import Terminal
        from finetune_trainer.run.experiment.local import ExperimentOptions
        from finetune_trainer.run.experiment.local import run_experiment as run

    def command(job: Path, result: Path) -> list[str]:
        # -P: nothing in the working folder is imported.
        return [sys.executable, "-P", "-m", "finetune_cli", "run", *options.as_arguments, "--result", str(result),
                str(job)]

    return run(experiment, Terminal(), ExperimentOptions(command, options.allowed_plugins, options.rerun))


def check_inputs(spec: FineTuneJobSpec, *, model: bool, data: bool, allowed_plugins: Sequence[str]) -> InputCheck:
    """Check the model and the rows of a job, without torch.

    Args:
        spec: the job's spec; its `file://` locations are absolute.
        model: whether to check the model.
        data: whether to check the rows.
        allowed_plugins: reward plug-ins that the job may name.

    Raises:
        CommandFailed: the trainer isn't installed.
    """
    with _importing():
        from finetune_trainer.run.local_check import check_inputs as check
    return check(spec, allowed_plugins, model=model, data=data)


def input_faults(experiment: Experiment, allowed_plugins: Sequence[str]) -> list[tuple[str, ExitCode]]:
    """What is wrong with the models, rows and outputs of an experiment's jobs, in words, without torch.

    Args:
        experiment: the experiment; `file://` locations of its jobs are absolute.
        allowed_plugins: reward plug-ins that the jobs may name.

    Raises:
        CommandFailed: the trainer isn't installed.
    """
    with _importing():
        from finetune_trainer.run.experiment.inputs import input_faults as check
    return [(f"variant {variant}: {fault.message}", fault.exit_code)
            for variant, fault in check(experiment.runs, allowed_plugins, quick=False)]


def rows_to_learn_from(spec: FineTuneJobSpec) -> int | None:
    """How many rows of a local data set a job learns from; None where they are not read quickly, or not at all."""
    try:
        with _importing():
            from finetune_trainer.run.local_check import check_inputs as check
    except CommandFailed:
        return None
    counts = check(spec, quick=True, model=False).counts
    if "train" in counts or "read" not in counts:
        return counts.get("train")
    return counts["read"] - round(counts["read"] * (spec.dataset.evaluation_fraction or 0))


def host_limits() -> tuple[int, int] | None:
    """Memory in bytes and processors that a trainer may use here; None where the trainer isn't installed."""
    try:
        from finetune_trainer.hardware.host import memory_bytes, processors
    except ImportError:
        return None
    return memory_bytes(), processors()


def model_config(spec: FineTuneJobSpec) -> dict[str, Any]:
    """The `config.json` of a job's model, fetched or converted by the trainer's own ways, without weights.

    Raises:
        CommandFailed: it can't be had, or the trainer isn't installed.
    """
    with _importing():
        from finetune_trainer.errors import TrainerError
        from finetune_trainer.model.files.description import describe_model
        from finetune_trainer.run.quiet import silence_libraries
    silence_libraries()
    with tempfile.TemporaryDirectory(prefix="finetune-estimate-") as folder:
        try:
            return describe_model(spec.model, spec.output.s3, Path(folder), lambda note: None).config
        except TrainerError as error:
            raise CommandFailed(str(error), error.exit_code) from error
