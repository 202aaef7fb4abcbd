"""Runs a job on this machine, without a cluster, for `finetune run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from decimal import Decimal

from finetune_api.exit_codes import ExitCode
from finetune_api.job import FineTuneJob
from finetune_api.messages import Accelerator, RunConfig
from finetune_api.messages.layout import job_prefix
from finetune_api.reasons import Outcome
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
from finetune_trainer.run.local_check import check_inputs
from finetune_trainer.run.local_identity import run_config_without_accelerator
from finetune_trainer.run.quiet import silence_libraries
from finetune_trainer.run.torch_variables import set_torch_variables
from finetune_trainer.storage import open_storage

_NOTHING_TRAINED = ("Nothing was trained: the same job is published already. To train it again, run finetune run "
                    "--rerun, or set spec.runPolicy.rerun: Always.")
L4_HOURLY_RATE = Decimal("1.00")
"""The price of a GPU per hour in USD if the job gives none: about that of an NVIDIA L4."""


def run_job(job: FineTuneJob, *, port: int | None, rerun: bool, console: Console, debug: bool = False,
            allowed_plugins: Sequence[str] = ()) -> int:
    """Run a job to its end, and show its progress and its result.

    Args:
        job: the job; its `file://` locations are absolute.
        port: port of `/progress` and `/metrics` on the loopback interface; None serves nothing.
        rerun: whether to train again even if the same job is published already.
        console: where to show progress and result.
        debug: whether to print the traceback of a failure.
        allowed_plugins: reward plug-ins that the job may name.

    Returns:
        The exit code, one of `ExitCode`.
    """
    silence_libraries()
    set_torch_variables()
    clock, stop = SystemClock(), StopFlag()
    stop.listen()

    def show(note: str) -> None:
        console.print(note, markup=False, highlight=False, soft_wrap=True)

    try:
        # Nothing here needs torch, which takes seconds to load.
        config = run_config_without_accelerator(job, rerun, show)
        config = config.model_copy(update={"allowed_plugins": tuple(allowed_plugins)})
        published = _published(config)
    except TrainerError as error:
        _show_fault(console, error.outcome, str(error))
        return error.exit_code
    if published is not None:
        show_end(console, published)
        show(_NOTHING_TRAINED)
        return ExitCode.OK
    faults = check_inputs(config.spec, allowed_plugins, quick=True).faults
    for fault in faults:
        _show_fault(console, fault.outcome, fault.message)
    if faults:
        return min(fault.exit_code for fault in faults)
    observer = ConsoleObserver(console, clock)
    config = config.model_copy(update={"accelerator": _accelerator(config.spec.budget.hourly_rate)})
    if warning := _uncounted_cost(config):
        show(warning)
    limits = local_limits(config.spec.budget, config.accelerator.hourly_rate, clock)
    address = ("127.0.0.1", port) if port is not None else None
    end = run(config, RunSettings(limits, None, [observer], address, debug), clock, stop)
    observer.close()
    show_end(console, end)
    return end.exit_code


def _show_fault(console: Console, outcome: Outcome, message: str) -> None:
    console.print(f"{outcome}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


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
