"""`finetune-trainer run --config DIR`: one attempt in a pod; `preflight --config DIR`: the check before the first."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Limits, Outcome, PreflightResult, PreflightVerdict, Result, RunConfig
from finetune_api.messages.layout import LIMITS_FILE, RUN_FILE
from pydantic import ValidationError

from finetune_trainer.clock import SystemClock
from finetune_trainer.distributed.rank import RENDEZVOUS_SECONDS, has_rank, rank_info, rank_variables
from finetune_trainer.errors import BadConfig
from finetune_trainer.progress.console import ConsoleObserver
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.progress.terminal import Terminal, say
from finetune_trainer.run.entry import Ending, quieten, run
from finetune_trainer.run.launcher import processes_here, run_children
from finetune_trainer.run.preflight import preflight

DEFAULT_PORT = 8080


def main(arguments: list[str] | None = None) -> int:
    """Run the attempt that a configuration folder describes; the exit code is one of `ExitCode`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="finetune-trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run one attempt")
    command.add_argument("--config", type=Path, required=True, help=f"folder with {RUN_FILE}")
    command.add_argument("--limits", type=Path, help=f"folder with {LIMITS_FILE}, read again at every step")
    command.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of /progress and /metrics")
    command.add_argument("--termination-log", type=Path, default=_termination_log(), help="where the result is written")
    command.add_argument("--rendezvous-timeout", type=float, default=RENDEZVOUS_SECONDS, metavar="SECONDS",
                         help="how long the processes of a job wait for each other at the start")
    command.add_argument("--debug", action="store_true", help="print tracebacks")
    check = commands.add_parser("preflight", help="check data, model and memory, without loading weights")
    check.add_argument("--config", type=Path, required=True, help=f"folder with {RUN_FILE}")
    check.add_argument("--termination-log", type=Path, default=_termination_log(), help="where the result is written")
    options = parser.parse_args(arguments)

    quieten()
    code, message = _check(options) if options.command == "preflight" else _run(options, arguments)
    if options.termination_log and message:
        options.termination_log.write_bytes(message)
    return code


def _check(options: argparse.Namespace) -> tuple[int, bytes]:
    """Check a job: the exit code and the result message."""
    _end_when_asked(options.termination_log)
    if wrong := _bad_folder(options.config, None):
        assert wrong.result is not None
        message = PreflightResult(verdict=PreflightVerdict.REFUSED, reason=wrong.result.outcome,
                                  message=wrong.result.message).to_bytes()
        say(message.decode())
        return ExitCode(wrong.code), message
    config = RunConfig.read((options.config / RUN_FILE).read_bytes())
    checked = preflight(config, say)
    message = checked.result.to_bytes()
    say(message.decode())
    return ExitCode(checked.code), message


def _end_when_asked(log: Path | None) -> None:
    """Have SIGTERM end a check at once: nothing is half done. Without a handler, the first process of a container does
    not hear it, and is killed when its time is over.
    """
    message = PreflightResult(verdict=PreflightVerdict.REFUSED, reason=Outcome.STOPPED,
                              message="the check was asked to stop").to_bytes()

    def end(number: int, frame: FrameType | None) -> None:
        if log:
            log.write_bytes(message)
        os._exit(ExitCode.STOPPED)

    signal.signal(signal.SIGTERM, end)


def _run(options: argparse.Namespace, arguments: list[str]) -> tuple[int, bytes]:
    """Run the attempt here, or in children of this process: the exit code and the result message, empty if none."""
    clock, stop = SystemClock(), StopFlag()
    stop.listen()
    if wrong := _bad_folder(options.config, options.limits):
        return _say(wrong)
    config = RunConfig.read((options.config / RUN_FILE).read_bytes())
    limits = Limits()
    if options.limits:
        limits = Limits.model_validate_json((options.limits / LIMITS_FILE).read_bytes())
    if not has_rank(os.environ):
        try:
            processes = processes_here(config.spec.compute)
        except BadConfig as error:
            return _say(Ending(error.exit_code, Result(outcome=error.outcome, message=str(error))))
        if processes > 1:
            return run_children(arguments, processes, stop, clock)
        os.environ.update(rank_variables(os.environ, 1, 0))
    # Of a node's processes the first one shows its progress and serves it.
    shows = rank_info(os.environ).local_rank == 0
    return _say(run(config, limits, options.limits, [ConsoleObserver(Terminal(), clock)] if shows else [], clock, stop,
                    ("0.0.0.0", options.port) if shows else None, options.debug, options.rendezvous_timeout))


def _say(ending: Ending) -> tuple[int, bytes]:
    message = ending.result.to_bytes() if ending.result is not None else b""
    if message:
        say(message.decode())
    return ExitCode(ending.code), message


def _termination_log() -> Path | None:
    given = os.environ.get("FINETUNE_TERMINATION_LOG", "/dev/termination-log")
    return Path(given) if Path(given).exists() and rank_info(os.environ).local_rank == 0 else None


def _bad_folder(config: Path, limits: Path | None) -> Ending | None:
    """What is wrong with the configuration folders, or None."""
    for path, read in ((config / RUN_FILE, RunConfig.read),
                       (limits / LIMITS_FILE if limits else None, Limits.model_validate_json)):
        if path is None:
            continue
        try:
            read(path.read_bytes())
        except OSError as error:
            return Ending(ExitCode.BAD_CONFIG, Result(outcome=Outcome.BAD_CONFIG, message=f"{path}: {error.strerror}"))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            return Ending(ExitCode.BAD_CONFIG, Result(outcome=Outcome.BAD_CONFIG,
                                                      message=f"{path}: {place}: {fault['msg']}"))
    return None


if __name__ == "__main__":
    raise SystemExit(main())
