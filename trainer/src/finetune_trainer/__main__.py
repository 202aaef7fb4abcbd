"""`finetune-trainer run --config DIR`: one attempt in a pod."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.layout import LIMITS_FILE, RUN_FILE
from finetune_api.messages import Limits, Outcome, Result, RunConfig
from pydantic import ValidationError
from rich.console import Console

from finetune_trainer.clock import SystemClock
from finetune_trainer.entry import Ending, quieten, run
from finetune_trainer.stopping import StopFlag
from finetune_trainer.watching.console import ConsoleObserver

DEFAULT_PORT = 8080


def main(arguments: list[str] | None = None) -> int:
    """Run the attempt that a configuration folder describes; the exit code is one of `ExitCode`."""
    parser = argparse.ArgumentParser(prog="finetune-trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run one attempt")
    command.add_argument("--config", type=Path, required=True, help=f"folder with {RUN_FILE}")
    command.add_argument("--limits", type=Path, help=f"folder with {LIMITS_FILE}, read again at every step")
    command.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of /progress and /metrics")
    command.add_argument("--termination-log", type=Path, default=_termination_log(), help="where the result is written")
    command.add_argument("--debug", action="store_true", help="print tracebacks")
    options = parser.parse_args(arguments)

    quieten()
    clock, stop = SystemClock(), StopFlag()
    stop.listen()
    console = Console()
    ending = _bad_folder(options.config, options.limits)
    if ending is None:
        config = RunConfig.model_validate_json((options.config / RUN_FILE).read_bytes())
        limits = Limits()
        if options.limits:
            limits = Limits.model_validate_json((options.limits / LIMITS_FILE).read_bytes())
        ending = run(config, limits, options.limits, [ConsoleObserver(console, clock)], clock, stop,
                     ("0.0.0.0", options.port), options.debug)
    message = ending.result.to_bytes()
    if options.termination_log:
        options.termination_log.write_bytes(message)
    print(message.decode(), file=sys.stdout)  # noqa: T201
    return ExitCode(ending.code)


def _termination_log() -> Path | None:
    given = os.environ.get("FINETUNE_TERMINATION_LOG", "/dev/termination-log")
    return Path(given) if Path(given).exists() else None


def _bad_folder(config: Path, limits: Path | None) -> Ending | None:
    """What is wrong with the configuration folders, or None."""
    for path, model in ((config / RUN_FILE, RunConfig), (limits / LIMITS_FILE if limits else None, Limits)):
        if path is None:
            continue
        try:
            model.model_validate_json(path.read_bytes())
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
