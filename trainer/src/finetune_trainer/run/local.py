"""Runs a job on this machine, without a cluster, for `finetune run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.job import FineTuneJob
from finetune_api.messages import Accelerator, LocalEnd, Result, RunConfig
from finetune_api.messages.layout import job_prefix
from rich.console import Console

from finetune_trainer.clock import SystemClock
from finetune_trainer.errors import TrainerError
from finetune_trainer.progress.console import ConsoleObserver
from finetune_trainer.progress.limits import local_limits
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.publish.adoption import published_report, published_result, wanted
from finetune_trainer.report.run_end import RunEnd
from finetune_trainer.report.terminal import show_end
from finetune_trainer.run.entry import RunSettings, run
from finetune_trainer.run.local_check import InputFault, check_inputs
from finetune_trainer.run.local_identity import run_config_without_accelerator
from finetune_trainer.run.quiet import silence_libraries
from finetune_trainer.run.torch_variables import set_torch_variables
from finetune_trainer.storage import open_storage

_NOTHING_TRAINED = ("Nothing was trained: the same job is published already. To train it again, run finetune run "
                    "--rerun, or set spec.runPolicy.rerun: Always.")
L4_HOURLY_RATE = Decimal("1.00")
"""The price of a GPU per hour in USD if the job gives none: about that of an NVIDIA L4."""


@dataclass(frozen=True)
class LocalOptions:
    """How a job runs on this machine.

    Attributes:
        port: port of `/progress` and `/metrics` on the loopback interface; None serves nothing.
        rerun: whether to train again even if the same job is published already.
        debug: whether to print the traceback of a failure.
        allowed_plugins: reward plug-ins that the job may name.
        result: the file that gets the result (`LocalEnd`); None writes none.
    """

    port: int | None = None
    rerun: bool = False
    debug: bool = False
    allowed_plugins: Sequence[str] = ()
    result: Path | None = None


def run_job(job: FineTuneJob, console: Console, options: LocalOptions) -> int:
    """Run a job to its end, and show its progress and its result.

    Args:
        job: the job; its `file://` locations are absolute.
        console: where to show progress and result.
        options: how to run it.

    Returns:
        The exit code, one of `ExitCode`.
    """
    end = _run_to_end(job, console, options)
    if options.result is not None and end.result is not None:
        written = LocalEnd(exit_code=end.exit_code, result=end.result, figures=end.figures, report=end.report)
        options.result.write_text(written.model_dump_json(exclude_none=True), encoding="utf-8")
    return end.exit_code


def _run_to_end(job: FineTuneJob, console: Console, options: LocalOptions) -> RunEnd:
    silence_libraries()
    set_torch_variables()
    clock, stop = SystemClock(), StopFlag()
    stop.listen()

    def show(note: str) -> None:
        console.print(note, markup=False, highlight=False, soft_wrap=True)

    try:
        # Nothing here needs torch, which takes seconds to load.
        config = run_config_without_accelerator(job, options.rerun, show)
        config = config.model_copy(update={"allowed_plugins": tuple(options.allowed_plugins)})
        published = _published(config)
    except TrainerError as error:
        return _refused(console, [InputFault(error.outcome, error.exit_code, str(error))])
    if published is not None:
        show_end(console, published)
        show(_NOTHING_TRAINED)
        return published
    if faults := check_inputs(config.spec, options.allowed_plugins, quick=True).faults:
        return _refused(console, faults)
    observer = ConsoleObserver(console, clock)
    config = config.model_copy(update={"accelerator": _accelerator(config.spec.budget.hourly_rate)})
    if warning := _uncounted_cost(config):
        show(warning)
    limits = local_limits(config.spec.budget, config.accelerator.hourly_rate, clock)
    address = ("127.0.0.1", options.port) if options.port is not None else None
    end = run(config, RunSettings(limits, None, [observer], address, options.debug), clock, stop)
    observer.close()
    show_end(console, end)
    return end


def _refused(console: Console, faults: Sequence[InputFault]) -> RunEnd:
    """Show why the job cannot run."""
    for fault in faults:
        console.print(f"{fault.outcome}: {fault.message}", style="red", markup=False, highlight=False, soft_wrap=True)
    first = min(faults, key=lambda fault: fault.exit_code)
    return RunEnd(first.exit_code, Result(outcome=first.outcome, message="; ".join(one.message for one in faults)))


def _published(config: RunConfig) -> RunEnd | None:
    """The result that the same job published before, or None.

    Raises:
        OutputNotWritable: the output cannot be read.
    """
    storage = open_storage(config.spec.output.uri, config.spec.output.s3)
    prefix = job_prefix(config.namespace, config.name, config.uid)
    result = published_result(storage, prefix, wanted(config))
    return RunEnd(ExitCode.OK, result, report=published_report(storage, prefix)) if result is not None else None


def _uncounted_cost(config: RunConfig) -> str | None:
    """A warning if spec.budget.maxCost has no effect, because no price is known; else None."""
    budget = config.spec.budget
    if budget.max_cost is None or config.accelerator.hourly_rate:
        return None
    return (f"warning: spec.budget.maxCost: {budget.max_cost} has no effect: this machine has no GPU, and a CPU costs "
            "nothing unless spec.budget.hourlyRate is set; set hourlyRate, or limit the time with "
            "spec.budget.maxDuration")


def run_config(job: FineTuneJob, rerun: bool = False, note: Callable[[str], None] = lambda text: None) -> RunConfig:
    """The run configuration of a job, with the accelerator of this machine."""
    config = run_config_without_accelerator(job, rerun, note)
    return config.model_copy(update={"accelerator": _accelerator(config.spec.budget.hourly_rate)})


def _accelerator(hourly_rate: Decimal | None) -> Accelerator:
    import torch

    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not torch.cuda.is_available():
        return Accelerator(name="cpu", host_memory_bytes=host,
                           hourly_rate=hourly_rate if hourly_rate is not None else Decimal(0))
    device = torch.cuda.get_device_properties(0)
    return Accelerator(name=device.name, memory_bytes=device.total_memory, host_memory_bytes=host,
                       hourly_rate=hourly_rate if hourly_rate is not None else L4_HOURLY_RATE)
