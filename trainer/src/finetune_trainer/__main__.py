"""`finetune-trainer run --config DIR` runs one attempt; `preflight --config DIR` checks the job first;
`experiment-report --config DIR` writes the report of an experiment.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

from finetune_api.exit_codes import ExitCode
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.messages import Limits, Outcome, PreflightResult, PreflightVerdict, Result, RunConfig
from finetune_api.messages.layout import EXPERIMENT, LIMITS_FILE, RUN_FILE
from pydantic import ValidationError

from finetune_trainer.clock import SystemClock
from finetune_trainer.distributed.rank import RENDEZVOUS_SECONDS, has_rank, rank_info, rank_variables
from finetune_trainer.errors import BadConfig, TrainerError, failure_of
from finetune_trainer.progress.console import ConsoleObserver
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.progress.terminal import Terminal, say
from finetune_trainer.report.run_end import RunEnd
from finetune_trainer.run.entry import RunSettings, run
from finetune_trainer.run.experiment.report import report_finished
from finetune_trainer.run.launcher import processes_here, run_children
from finetune_trainer.run.preflight import preflight
from finetune_trainer.run.quiet import silence_libraries
from finetune_trainer.run.torch_variables import set_torch_variables

T = TypeVar("T")

DEFAULT_PORT = 8080


def main(arguments: list[str] | None = None) -> int:
    """Run or check the job that a configuration folder describes. The exit code is one of `ExitCode`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="finetune-trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run one attempt")
    command.add_argument("--config", type=Path, required=True, help=f"folder with {RUN_FILE}")
    command.add_argument("--limits", type=Path, help=f"folder with {LIMITS_FILE}, which is read again at every step")
    command.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of /progress and /metrics")
    command.add_argument("--termination-log", type=Path, default=_termination_log(), help="file for the result message")
    command.add_argument("--rendezvous-timeout", type=float, default=RENDEZVOUS_SECONDS, metavar="SECONDS",
                         help="how long the processes of a job wait for each other at the start")
    command.add_argument("--debug", action="store_true", help="print tracebacks")
    check = commands.add_parser("preflight", help="check data, model and memory; no weights are loaded")
    check.add_argument("--config", type=Path, required=True, help=f"folder with {RUN_FILE}")
    check.add_argument("--termination-log", type=Path, default=_termination_log(), help="file for the result message")
    report = commands.add_parser("experiment-report", help="compare the results of an experiment, write its report")
    report.add_argument("--config", type=Path, required=True, help=f"folder with {EXPERIMENT}: the experiment with its "
                                                                   "status, which names what its jobs published")
    report.add_argument("--termination-log", type=Path, default=_termination_log(), help="file for the result message")
    options = parser.parse_args(arguments)

    silence_libraries()
    set_torch_variables()
    if options.command == "run":
        code, message = _run(options, arguments)
    else:
        code, message = _check(options) if options.command == "preflight" else _report(options)
    if options.termination_log and message:
        options.termination_log.write_bytes(message)
    return code


def _check(options: argparse.Namespace) -> tuple[int, bytes]:
    """Check a job.

    Returns:
        The exit code and the result message.
    """
    _end_on_sigterm(options.termination_log, PreflightResult(
        verdict=PreflightVerdict.REFUSED, reason=Outcome.STOPPED, message="the check was asked to stop").to_bytes())
    try:
        config = read_config(options.config)
    except BadConfig as error:
        message = PreflightResult(verdict=PreflightVerdict.REFUSED, reason=error.outcome,
                                  message=str(error)).to_bytes()
        say(message.decode())
        return error.exit_code, message
    checked = preflight(config, say)
    message = checked.result.to_bytes()
    say(message.decode())
    return checked.code, message


def _report(options: argparse.Namespace) -> tuple[int, bytes]:
    """Write the report of an experiment.

    Returns:
        The exit code and the result message.
    """
    _end_on_sigterm(options.termination_log, ReportedExperiment(
        outcome=Outcome.STOPPED, message="the report was asked to stop").to_bytes())
    try:
        written, code = report_finished(options.config, SystemClock()).reported, ExitCode.OK
    except Exception as error:
        failure = failure_of(error)
        written, code = ReportedExperiment(outcome=failure.outcome, message=failure.message), failure.exit_code
    message = written.to_bytes()
    say(message.decode())
    return code, message


def _end_on_sigterm(log: Path | None, message: bytes) -> None:
    """Let SIGTERM end a check or a report at once, since it leaves nothing half done.

    Without a handler, the first process of a container ignores SIGTERM, and is killed at the end of its grace period.
    """
    def end(number: int, frame: FrameType | None) -> None:
        if log:
            log.write_bytes(message)
        os._exit(ExitCode.STOPPED)

    signal.signal(signal.SIGTERM, end)


def _run(options: argparse.Namespace, arguments: list[str]) -> tuple[int, bytes]:
    """Run the attempt in this process, or in one child process per GPU.

    Returns:
        The exit code and the result message, which is empty if there is none.
    """
    clock, stop = SystemClock(), StopFlag()
    stop.listen()
    try:
        config, limits = read_config(options.config), read_limits(options.limits)
        if not has_rank(os.environ):
            processes = processes_here(config.spec.compute, config.accelerator)
            if processes > 1:
                return run_children(arguments, processes, stop, clock)
            os.environ.update(rank_variables(os.environ, 1, 0))
    except TrainerError as error:
        failure = failure_of(error)
        return _end(RunEnd(failure.exit_code, Result(outcome=failure.outcome, message=failure.message)))
    # The first process of a node shows the progress of all, and serves it.
    is_first = rank_info(os.environ).local_rank == 0
    settings = RunSettings(
        limits, options.limits, [ConsoleObserver(Terminal(), clock)] if is_first else [],
        ("0.0.0.0", options.port) if is_first else None, options.debug, options.rendezvous_timeout)
    return _end(run(config, settings, clock, stop))


def _end(end: RunEnd) -> tuple[int, bytes]:
    message = end.result.to_bytes() if end.result is not None else b""
    if message:
        say(message.decode())
    return end.exit_code, message


def _termination_log() -> Path | None:
    path = os.environ.get("FINETUNE_TERMINATION_LOG", "/dev/termination-log")
    return Path(path) if Path(path).exists() and rank_info(os.environ).local_rank == 0 else None


def read_config(folder: Path) -> RunConfig:
    """The run configuration in a folder.

    Raises:
        BadConfig: its file is missing or invalid.
    """
    return _read(folder / RUN_FILE, RunConfig.read)


def read_limits(folder: Path | None) -> Limits:
    """The limits in a folder; without a folder there are none.

    Raises:
        BadConfig: its file is missing or invalid.
    """
    return _read(folder / LIMITS_FILE, Limits.model_validate_json) if folder else Limits()


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise BadConfig(f"{path}: {field}: {fault['msg']}") from error


if __name__ == "__main__":
    raise SystemExit(main())
