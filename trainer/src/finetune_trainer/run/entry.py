"""From a run configuration to an exit code: runs one attempt, and turns every exception into a result message."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Limits, Result, RunConfig, RunFigures
from finetune_api.messages.layout import METRICS
from finetune_api.reasons import Outcome
from finetune_api.spec.method import Engine
from finetune_api.values.money import Price

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.rank import RENDEZVOUS_SECONDS, rank_info
from finetune_trainer.errors import Failure, failure_of
from finetune_trainer.hardware.accelerator import require_accelerator
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.server import Metrics, ProgressServer
from finetune_trainer.progress.state import Observer, RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.progress.terminal import say
from finetune_trainer.report.run_end import RunEnd
from finetune_trainer.run.scratch import new_scratch


@dataclass(frozen=True)
class RunSettings:
    """How an attempt runs on this machine.

    Attributes:
        limits: the limits at the start.
        limits_folder: the folder in which limits.json is read again at every step; None if the limits do not change.
        observers: receive the progress.
        address: host and port of `/progress` and `/metrics`; None serves nothing.
        debug: whether to print the traceback of a failure.
        rendezvous_seconds: how long the processes of a job wait for each other at the start.
    """

    limits: Limits
    limits_folder: Path | None = None
    observers: Sequence[Observer] = ()
    address: tuple[str, int] | None = None
    debug: bool = False
    rendezvous_seconds: float = RENDEZVOUS_SECONDS


def run(config: RunConfig, settings: RunSettings, clock: Clock, stop: StopFlag) -> RunEnd:
    """Run one attempt and return how it ended. Only exceptions that end the process, such as SystemExit, are raised.

    Args:
        config: the run configuration.
        settings: how to run it here.
        clock: the time.
        stop: whether the run was asked to stop.
    """
    limits, scratch, rank = settings.limits, new_scratch(), rank_info(os.environ)
    less_memory: str | None = None
    state = RunState(clock, _price(config, limits), limits.spent_before, config.accelerator.memory_bytes)
    metrics = MetricsLog(scratch / METRICS, clock)
    prometheus = Metrics(config.namespace, config.name)
    state.observers = (metrics, prometheus, *settings.observers)
    try:
        # Before anything is downloaded, and before a process waits for the others.
        if less_memory := require_accelerator(config.accelerator, rank.local_rank):
            state.note(less_memory)
        if config.spec.engine is Engine.UNSLOTH:
            from finetune_trainer.engines import unsloth

            unsloth.prepare()
        # Imported late: torch and transformers take seconds to load, and a wrong configuration needs neither.
        from finetune_trainer.run.attempt.attempt import run_attempt
        from finetune_trainer.run.attempt.context import Attempt

        attempt = Attempt(config, LimitsFile(settings.limits_folder, limits), state, metrics, stop, scratch, clock,
                          rank, settings.rendezvous_seconds)
        with ProgressServer(state, prometheus, *settings.address) if settings.address else nullcontext():
            done = run_attempt(attempt)
        return RunEnd(ExitCode.OK, done.result, done.facts, done.report, _figures(state))
    except Exception as error:
        if settings.debug:
            say("".join(traceback.format_exception(error)), file=sys.stderr)
        failure = failure_of(error, " (--debug prints the traceback)")
        if less_memory and failure.outcome is Outcome.OUT_OF_MEMORY:
            failure = replace(failure, message=f"{failure.message}. {less_memory}")
        return RunEnd(failure.exit_code, _result(failure, state), figures=_figures(state))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _price(config: RunConfig, limits: Limits) -> Price:
    """The price of the job's accelerators: the operator's, or without one that of the run configuration."""
    count = config.spec.compute.processes(config.accelerator.name)
    if limits.hourly_rate is None:
        return config.accelerator.price(count)
    return Price(limits.hourly_rate / count, config.accelerator.currency, count)


def _figures(state: RunState) -> RunFigures:
    """What a run has taken, whether it succeeded or not."""
    return RunFigures(cost=state.spending().spent, resumed_cost=state.resumed_cost(), currency=state.price.currency,
                      seconds=round(state.trained_seconds(), 3))


def _result(failure: Failure, state: RunState) -> Result:
    progress = state.message().progress
    return Result(outcome=failure.outcome, message=failure.message, step=progress.step if progress else 0,
                  total_steps=progress.total_steps if progress else None, resumed_from_step=state.resumed_from_step,
                  checkpoint_step=state.checkpoint_step)
