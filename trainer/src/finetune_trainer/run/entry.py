"""From a run configuration to an exit code: sets the stage, runs the attempt, and puts every ending into words."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Limits, Outcome, Result, RunConfig
from finetune_api.messages.layout import METRICS
from finetune_api.spec.method import Engine
from finetune_api.values.money import Price

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.rank import RENDEZVOUS_SECONDS, rank_info
from finetune_trainer.errors import failure_of
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.server import Metrics, ProgressServer
from finetune_trainer.progress.state import Observer, RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.progress.terminal import say

_SCRATCH = "finetune-scratch-"


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and the facts of what it published, if it did; no result where it only helped to train."""

    code: ExitCode
    result: Result | None
    facts: object | None = None


def run(config: RunConfig, limits: Limits, limits_folder: Path | None, observers: Sequence[Observer], clock: Clock,
        stop: StopFlag, address: tuple[str, int] | None, debug: bool = False,
        rendezvous_seconds: float = RENDEZVOUS_SECONDS) -> Ending:
    """Run one attempt and tell how it ended; nothing is raised but what ends the process.

    Args:
        config: the run configuration.
        limits: the limits at the start.
        limits_folder: where they are read again, if they can change.
        observers: told of everything that happens.
        clock: the time.
        stop: whether somebody asked to stop.
        address: host and port of `/progress` and `/metrics`; None serves nothing.
        debug: print the traceback of a failure.
        rendezvous_seconds: how long the processes of a job wait for each other at the start.
    """
    scratch = new_scratch()
    state = RunState(clock, _price(config, limits), limits.spent_before, config.accelerator.memory_bytes)
    metrics = MetricsLog(scratch / METRICS, clock)
    prometheus = Metrics(config.namespace, config.name)
    state.observers = (metrics, prometheus, *observers)
    try:
        if config.spec.engine is Engine.UNSLOTH:
            from finetune_trainer.engines import unsloth

            unsloth.prepare()
        # Imported late: torch and transformers take seconds, and a wrong configuration should be told at once.
        from finetune_trainer.run.attempt import Attempt, run_attempt

        with ProgressServer(state, prometheus, *address) if address else nullcontext():
            finished = run_attempt(Attempt(config, LimitsFile(limits_folder, limits), state, metrics, stop, scratch,
                                           clock, rank_info(os.environ), rendezvous_seconds))
        return Ending(ExitCode.OK, finished.result, finished.facts)
    except Exception as error:
        if debug:
            say("".join(traceback.format_exception(error)), file=sys.stderr)
        failure = failure_of(error, " (--debug prints the traceback)")
        return Ending(failure.exit_code, _failed(failure.outcome, failure.message, state))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def new_scratch() -> Path:
    """A folder for this process; those of processes that were killed are removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))


def _price(config: RunConfig, limits: Limits) -> Price:
    """The price of the job's accelerators: the operator's, or without one that of the run configuration."""
    count = config.spec.compute.processes(config.accelerator.name)
    if limits.hourly_rate is None:
        return config.accelerator.price(count)
    return Price(limits.hourly_rate / count, config.accelerator.currency, count)


def _failed(outcome: Outcome, message: str, state: RunState) -> Result:
    progress = state.message().progress
    return Result(outcome=outcome, message=message, step=progress.step if progress else 0,
                  total_steps=progress.total_steps if progress else None, resumed_from_step=state.resumed_from_step,
                  checkpoint_step=state.checkpoint_step)


def quieten() -> None:
    """Keep libraries from writing between our lines: what matters to a user is said by us.

    To be called before torch and transformers are imported, which read these variables once.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
