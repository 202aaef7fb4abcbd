"""Runs an experiment on this machine, for `finetune run`: checks everything first, then one job after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.exit_codes import ExitCode
from finetune_api.experiment.expansion import Run
from finetune_api.experiment.plan import CreateJob
from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.status import ExperimentReason, FineTuneExperimentStatus, RunPhase
from finetune_api.experiment.summary import row_of
from rich.console import Console

from finetune_trainer.clock import SystemClock
from finetune_trainer.errors import BadConfig, TrainerError, failure_of
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.report.experiment.terminal import show_experiment
from finetune_trainer.run.experiment.inputs import input_faults
from finetune_trainer.run.experiment.job_process import Command, run_in_process
from finetune_trainer.run.experiment.report import write_report
from finetune_trainer.run.experiment.state import LocalExperiment


@dataclass(frozen=True)
class ExperimentOptions:
    """How an experiment runs on this machine.

    Attributes:
        command: runs one job.
        allowed_plugins: reward plug-ins that the jobs may name.
        reruns: whether `command` trains again what is published already.
    """

    command: Command
    allowed_plugins: Sequence[str] = ()
    reruns: bool = False


def run_experiment(experiment: Experiment, console: Console, options: ExperimentOptions) -> int:
    """Run an experiment to its end, and show its ranking. A failed variant does not end the others.

    Args:
        experiment: the experiment; `file://` locations of its jobs are absolute.
        console: where to show progress and result.
        options: how to run it.

    Returns:
        0 if every job has a result or was skipped; 75 or 130 if it was asked to stop; else the smallest exit code of
        the jobs that failed.
    """
    clock, stop = SystemClock(), StopFlag()
    stop.listen()
    try:
        if experiment.resource.spec.suspend:
            raise BadConfig("spec.suspend is true; nothing is run. Set it to false")
        if faults := input_faults(experiment.runs, options.allowed_plugins, quick=True):
            for variant, fault in faults:
                _say(console, f"variant {variant}: {fault.outcome}: {fault.message}", "red")
            return min(fault.exit_code for _, fault in faults)
        state = LocalExperiment(experiment, clock)
        state.read_earlier(options.reruns)
        return _run(state, console, options, stop)
    except TrainerError as error:
        _say(console, f"{error.outcome}: {error}", "red")
        return error.exit_code


def _run(state: LocalExperiment, console: Console, options: ExperimentOptions, stop: StopFlag) -> int:
    runs = state.experiment.runs
    _say(console, f"{len(runs)} jobs, one after the other. Everything that can be checked beforehand is right.")
    while True:
        decided = state.decide()
        started = next((action for action in decided.actions if isinstance(action, CreateJob)), None)
        if started is None:
            break
        run = started.run
        running = row_of(run, RunPhase.RUNNING, ExperimentReason.RUNNING).model_copy(update={
            "max_cost": started.max_cost})
        state.write(state.status(decided, [running]))
        _say(console, _headline(run, len(state.ends) + 1, len(runs)), "bold")
        end = run_in_process(run, started.max_cost, state.spec.rank_by.metric, options.command, stop, state.clock)
        state.ends[run.name] = end
        if end.was_stopped:
            state.write(state.status(state.decide()))
            return end.exit_code
        if end.row.phase is RunPhase.FAILED:
            _say(console, f"variant {run.variant} failed ({end.row.reason}); the others go on", "red")
    status = _reported(state, state.status(decided), console)
    state.write(status)
    show_experiment(console, state.experiment.resource, status)
    _say(console, f"status      {state.location.removeprefix('file://')}")
    codes = [end.exit_code for end in state.ends.values() if end.row.phase is RunPhase.FAILED and end.exit_code]
    return min(codes, default=int(ExitCode.OK))


def _reported(state: LocalExperiment, status: FineTuneExperimentStatus, console: Console) -> FineTuneExperimentStatus:
    """The status with the location of the page, which is written; without it where the page cannot be made."""
    try:
        written = write_report(state.experiment, status, state.clock)
    except Exception as error:  # The results are published, whatever becomes of the page.
        _say(console, f"warning: the report could not be made: {failure_of(error).message}", "yellow")
        return status.model_copy(update={"report": None})
    for sentence in written.missing:
        _say(console, f"warning: {sentence}", "yellow")
    return written.status


def _headline(run: Run, number: int, count: int) -> str:
    words = f" ({run.details})" if run.details else ""
    return f"\n[{number}/{count}] {run.variant}{words}: job {run.name}"


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
