"""A job on this machine, without a cluster: what `finetune run` calls."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.job import FineTuneJob
from finetune_api.messages import Accelerator, Result, RunConfig
from finetune_api.messages.layout import job_prefix
from finetune_api.reasons import Outcome
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.policy import RerunPolicy
from finetune_api.values.uris import Uri
from rich.console import Console

from finetune_trainer.clock import SystemClock
from finetune_trainer.data.sources.splits import local_files
from finetune_trainer.errors import TrainerError
from finetune_trainer.model.files.content import content_digest, description_digest
from finetune_trainer.progress.console import ConsoleObserver
from finetune_trainer.progress.limits import local_limits
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.publish.adoption import Wanted, damage, misfit, published_result, read_manifest, wanted
from finetune_trainer.report.terminal import show_ending
from finetune_trainer.run.entry import Ending, quieten, run
from finetune_trainer.run.local_check import check_inputs
from finetune_trainer.storage import Storage, as_output, open_storage
from finetune_trainer.storage.digests import file_digest

_NAMESPACE = uuid.UUID("8f9b6c1e-52c8-4a7c-9c06-3e1c5b0d7a11")
_NOTHING_TRAINED = ("Nothing was trained: the same job is published already. To train it again, run finetune run "
                    "--rerun, or set spec.runPolicy.rerun: Always.")
L4_HOURLY_RATE = Decimal("1.00")
"""About what an NVIDIA L4 costs an hour, in USD: the price of a GPU whose job names none."""


def run_job(job: FineTuneJob, *, port: int | None, rerun: bool, console: Console, debug: bool = False,
            allowed_plugins: Sequence[str] = ()) -> int:
    """Run a job to its end and show it.

    Args:
        job: the job; its `file://` locations are absolute.
        port: port of `/progress` and `/metrics` on the loopback interface; None serves nothing.
        rerun: train again even if the same job is published already.
        console: where to show progress and result.
        debug: print the traceback of a failure.
        allowed_plugins: reward plug-ins that the job may name.

    Returns:
        The exit code, one of `ExitCode`.
    """
    quieten()
    clock, stop = SystemClock(), StopFlag()
    stop.listen()

    def show(note: str) -> None:
        console.print(note, markup=False, highlight=False, soft_wrap=True)

    try:
        # Nothing until here needs torch, which takes seconds to load: what can be said at once is said at once.
        config = identify(job, rerun, show).model_copy(update={"allowed_plugins": tuple(allowed_plugins)})
        published = _published(config)
    except TrainerError as error:
        _show_fault(console, error.outcome, str(error))
        return error.exit_code
    if published is not None:
        show_ending(console, Ending(ExitCode.OK, published))
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
    ending = run(config, limits, None, [observer], clock, stop, ("127.0.0.1", port) if port is not None else None,
                 debug)
    observer.close()
    show_ending(console, ending)
    return ExitCode(ending.code)


def _show_fault(console: Console, outcome: Outcome, message: str) -> None:
    console.print(f"{outcome}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


def _published(config: RunConfig) -> Result | None:
    """What the same job published before, or None.

    Raises:
        OutputNotWritable: the output can't be read.
    """
    storage = open_storage(config.spec.output.uri, config.spec.output.s3)
    return published_result(storage, job_prefix(config.namespace, config.name, config.uid), wanted(config))


def _uncounted_cost(config: RunConfig) -> str | None:
    """That a budget has no effect where nothing is known to cost anything; None where it has one."""
    budget = config.spec.budget
    if budget.max_cost is None or config.accelerator.hourly_rate:
        return None
    return (f"warning: spec.budget.maxCost: {budget.max_cost} has no effect: this machine has no GPU, and a CPU costs "
            "nothing unless spec.budget.hourlyRate is set; set hourlyRate, or limit the time with "
            "spec.budget.maxDuration")


def run_config(job: FineTuneJob, rerun: bool = False, tell: Callable[[str], None] = lambda note: None) -> RunConfig:
    """The run configuration of a job on this machine: `identify`, with the machine's accelerator."""
    config = identify(job, rerun, tell)
    return config.model_copy(update={"accelerator": _accelerator(config.spec.budget.hourly_rate)})


def identify(job: FineTuneJob, rerun: bool, tell: Callable[[str], None]) -> RunConfig:
    """The run configuration of a job, without the accelerator of this machine: finding that takes torch.

    The job's identity follows from its name and everything that decides its result, local data included: the same job
    resumes, or finds what it published; a changed one starts afresh beside it, and so does one whose base was replaced.

    Args:
        job: the job.
        rerun: train again even if the same job is published already.
        tell: what to do with notes for people.

    Raises:
        OutputNotWritable: the output can't be read.
        BadConfig: it can't be an output here.
    """
    spec = resolve_defaults(job.spec)
    digest = spec_hash(spec)
    storage = open_storage(spec.output.uri, spec.output.s3)
    again = rerun or spec.run_policy.rerun is RerunPolicy.ALWAYS
    config = RunConfig(
        namespace=job.metadata.namespace, name=job.metadata.name, uid="unknown", attempt=1, spec=spec,
        spec_hash=digest, accelerator=Accelerator(name="unknown", hourly_rate=Decimal(0)),
    )
    with as_output():
        uid = _identity(config, storage, again, tell)
        attempts = _attempts_so_far(storage, job_prefix(config.namespace, config.name, uid))
    return config.model_copy(update={"uid": uid, "attempt": attempts + 1})


def _identity(config: RunConfig, storage: Storage, again: bool, tell: Callable[[str], None]) -> str:
    """The first identity of the job whose folder has no result, or, if it may be adopted, this very job's."""
    named = f"{config.namespace}/{config.name}/{config.spec_hash}/{_data_digest(config.spec.dataset.source)}"
    want: Wanted | None = None
    for number in itertools.count():
        uid = str(uuid.uuid5(_NAMESPACE, f"{named}/{number}"))
        prefix = job_prefix(config.namespace, config.name, uid)
        found = read_manifest(storage, prefix)
        if found is None:
            return uid
        if again:
            continue
        want = want or _wanted(config)
        fault = found if isinstance(found, str) else misfit(found, want) or damage(storage, prefix, found)
        if fault is None:
            return uid
        tell(f"the result {storage.root.join(prefix)} is passed over: {fault}")
    raise AssertionError("there is always another number")


def _wanted(config: RunConfig) -> Wanted:
    """What a result has to be of, the content of a model that has no commit included."""
    model = config.spec.model
    if model.source.scheme == "hub":
        return wanted(config)
    s3 = config.spec.output.s3
    with tempfile.TemporaryDirectory() as scratch:
        return replace(wanted(config), base_revision=content_digest(model, s3, Path(scratch)),
                       base_description=description_digest(model, s3))


def _data_digest(source: Uri) -> str:
    """Digest of a local data set; what lies elsewhere is taken to be what its location says."""
    if source.scheme != "file":
        return ""
    lines = (f"{file.name} {file_digest(file)}\n" for file in local_files(source))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _attempts_so_far(storage: Storage, prefix: str) -> int:
    """The highest attempt that left a checkpoint or a result; 0 where there is none."""
    parts = [key.removeprefix(f"{prefix}/").split("/") for key in storage.keys(f"{prefix}/")]
    return max((int(part[1]) for part in parts if len(part) > 2 and part[1].isdecimal()), default=0)


def _accelerator(hourly_rate: Decimal | None) -> Accelerator:
    import torch

    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not torch.cuda.is_available():
        return Accelerator(name="cpu", host_memory_bytes=host,
                           hourly_rate=hourly_rate if hourly_rate is not None else Decimal(0))
    device = torch.cuda.get_device_properties(0)
    return Accelerator(name=device.name, memory_bytes=device.total_memory, host_memory_bytes=host,
                       hourly_rate=hourly_rate if hourly_rate is not None else L4_HOURLY_RATE)
