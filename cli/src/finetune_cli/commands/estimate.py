"""`finetune estimate`: what a job needs, without a cluster and without its model's weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from finetune_api import ExitCode, FineTuneJobSpec, resolve_defaults
from finetune_api.estimate import (
    PROCESS_ON_CPU,
    Architecture,
    Estimate,
    EstimateTarget,
    RowLengths,
    TrainingRows,
    UnknownArchitecture,
    checkpointing_in_words,
    estimate_job,
    mapped_weights_bytes,
    read_architecture,
)
from finetune_api.estimate.catalogue import KNOWN_ACCELERATORS
from finetune_api.estimate.plan import USABLE
from finetune_api.experiment.expansion import Run
from finetune_api.spec.method import Quantization
from finetune_api.values.quantities import Quantity
from rich.console import Console
from rich.table import Table

from finetune_cli import trainer
from finetune_cli.errors import CommandFailed
from finetune_cli.estimate_target import CPU, ChosenTarget, TargetOptions, choose_target
from finetune_cli.experiment_estimate import EstimatedRun, show_experiment_estimate
from finetune_cli.job_file import read_experiment, read_job, with_absolute_jobs, with_absolute_locations
from finetune_cli.terminal import say
from finetune_cli.this_machine import ThisMachine

_GIB = 1024**3
_TERMS = {
    "process": "Python, torch and the libraries", "file": "the weights' file; given back where memory is short",
    "weights": "the base model's weights", "adapter": "the adapter, in float32", "gradients": "gradients",
    "optimizer": "optimizer state", "activations": "what the backward pass reads", "loss": "the loss of the answers",
    "buffers": "one layer's dequantised weight", "context": "CUDA's context (assumed)",
}


@dataclass(frozen=True)
class HostEstimate:
    """An estimate with everything that a process on a CPU holds beside what torch computes with.

    Attributes:
        found: the job's estimate.
        terms: bytes by what they are for; on a GPU those of `found` alone.
        fits: whether the machine has the memory; true where its memory is not known.
        change: the change that makes the job fit, in words; None where it fits.
    """

    found: Estimate
    terms: Mapping[str, int]
    fits: bool
    change: str | None

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.terms.values())


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--accelerator", metavar="NAME",
              help="Estimate for an accelerator of the catalogue, such as l4, h100 or cpu, and not for this machine.")
@click.option("--rows", type=click.IntRange(1), metavar="N",
              help="Rows to learn from; without it the rows of a local data set, or dataset.maxSamples.")
@click.option("--row-tokens", type=click.IntRange(1), metavar="N",
              help="Tokens of a row on average; without it training.maxLength, which is the most.")
@click.option("--memory", metavar="QUANTITY",
              help="Memory of one accelerator, such as 24Gi, for one that is not in the catalogue.")
@click.option("--price", type=click.FLOAT, metavar="USD", help="Price of one accelerator for one hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def estimate(context: click.Context, /, file: Path, as_json: bool, rows: int | None, row_tokens: int | None,
             **target: Any) -> None:
    """Estimate memory, hours and cost of the FineTuneJob in FILE, or of each job of a FineTuneExperiment and of all.

    Without --accelerator the estimate is for finetune run on this machine: its GPU, or its processors and memory. With
    --accelerator it is for a cluster that has this accelerator. Reads the model's configuration, but no weights; needs
    no cluster. Exits with 71 if a job does not fit, with 66 if the configuration can't be had.
    """
    options = TargetOptions(**target)
    experiment = read_experiment(file)
    if experiment is not None:
        jobs = [_of_run(run, options, rows, row_tokens) for run in with_absolute_jobs(experiment, file.parent).runs]
        show_experiment_estimate(jobs, experiment.resource.spec.budget.max_cost, as_json)
        context.exit(ExitCode.OK if all(job.fits for job in jobs) else ExitCode.OUT_OF_MEMORY)
    spec = resolve_defaults(with_absolute_locations(read_job(file), file.parent).spec)
    model, chosen, found = _estimated(spec, options, rows, row_tokens)
    if as_json:
        say(json.dumps(_document(model, chosen.target, found), indent=2))
    else:
        _show(spec, model, chosen.target, found, chosen.machine)
        if chosen.machine:
            say(f"For a cluster: finetune estimate --accelerator {spec.compute.accelerator} {file}")
    context.exit(ExitCode.OK if found.fits else ExitCode.OUT_OF_MEMORY)


def _estimated(spec: FineTuneJobSpec, options: TargetOptions, rows: int | None, row_tokens: int | None
               ) -> tuple[Architecture, ChosenTarget, HostEstimate]:
    """The model's sizes, what is estimated for, and the estimate of a job.

    Raises:
        CommandFailed: the model's configuration can't be had, or does not give its sizes.
    """
    chosen = choose_target(spec, options)
    try:
        model = read_architecture(_model_config(spec))
    except UnknownArchitecture as error:
        raise CommandFailed(f"spec.model.source: {spec.model.source} can't be estimated: {error}",
                            ExitCode.BAD_CONFIG) from error
    return model, chosen, _estimate(_with_processors(spec, chosen.machine), model, chosen.target, chosen.machine,
                                    TrainingRows(_tokens(spec, rows, row_tokens), RowLengths(typical=row_tokens)))


def _of_run(run: Run, options: TargetOptions, rows: int | None, row_tokens: int | None) -> EstimatedRun:
    spec = resolve_defaults(run.job.spec)
    _, chosen, found = _estimated(spec, options, rows, row_tokens)
    duration = found.found.duration
    return EstimatedRun(run, spec.method.display_name, chosen.target, found.total, found.fits, found.change,
                        duration.hours if duration else None, duration.cost if duration else None)


def _with_processors(spec: FineTuneJobSpec, machine: ThisMachine | None) -> FineTuneJobSpec:
    """The spec with this machine's processors, by which the speed of a CPU is estimated."""
    if machine is None or machine.gpu:
        return spec
    compute = spec.compute.model_copy(update={"cpu": Quantity(str(machine.processors))})
    return spec.model_copy(update={"compute": compute})


def _estimate(spec: FineTuneJobSpec, model: Architecture, target: EstimateTarget, machine: ThisMachine | None,
              rows: TrainingRows) -> HostEstimate:
    """The estimate for a target; on a CPU with what the process holds beside the model."""
    catalogue = {} if machine else {name: known.memory_bytes for name, known in KNOWN_ACCELERATORS.items()}
    found = estimate_job(spec, model, target, catalogue, rows)
    terms = dict(found.plan.memory.terms())
    if target.name != CPU:
        return HostEstimate(found, terms, found.plan.fits, found.change)
    # Quantized weights are a copy beside the file that they were read from. Its pages are given up first.
    needed = PROCESS_ON_CPU + sum(terms.values())
    file = 0 if spec.method.quantization is Quantization.NONE else mapped_weights_bytes(model)
    terms = {"process": PROCESS_ON_CPU, "file": file, **terms}
    if machine is None or needed <= machine.memory_bytes:
        return HostEstimate(found, terms, True, None)
    # Of memory that estimate_job is given it takes the usable share only; here all of it is usable.
    left = max(1, math.floor((machine.memory_bytes - PROCESS_ON_CPU) / USABLE))
    return HostEstimate(found, terms, False,
                        estimate_job(spec, model, replace(target, memory_bytes=left), catalogue, rows).change)


def _model_config(spec: FineTuneJobSpec) -> dict[str, Any]:
    """The model's `config.json`; that of a folder is read without the trainer."""
    source = spec.model.source
    if source.scheme == "pvc":
        raise CommandFailed(f"spec.model.source: {source} is a claim of a cluster and can't be read here; the "
                            "cluster's preflight makes the estimate", ExitCode.MISSING_INPUT)
    if source.scheme != "file" or source.path.lower().endswith(".gguf"):
        return trainer.model_config(spec)
    path = source.local_path() / "config.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CommandFailed(f"spec.model.source: {path}: {error.strerror}", ExitCode.MISSING_INPUT) from error
    except ValueError as error:
        raise CommandFailed(f"spec.model.source: {path} is not JSON: {error}", ExitCode.BAD_CONFIG) from error
    return content


def _tokens(spec: FineTuneJobSpec, rows: int | None, row_tokens: int | None) -> int | None:
    """Tokens to train on; None where the number of rows is not known."""
    training = spec.training
    each = min(row_tokens or training.max_length, training.max_length)
    if training.max_steps:
        return training.max_steps * training.batch_size * each
    known = rows or trainer.rows_to_learn_from(spec) or spec.dataset.max_samples
    if known is None:
        return None
    return round(min(known, spec.dataset.max_samples or known) * (training.epochs or 1.0)) * each


def _document(model: Architecture, target: EstimateTarget, estimated: HostEstimate) -> dict[str, Any]:
    plan, duration = estimated.found.plan, estimated.found.duration
    return {
        "parameters": model.parameters, "accelerator": target.name, "acceleratorBytes": target.memory_bytes,
        "memoryBytes": estimated.total, "terms": dict(estimated.terms), "fits": estimated.fits,
        "microBatchSize": plan.micro_batch_size, "gradientCheckpointing": plan.checkpointed_layers > 0,
        "checkpointedLayers": plan.checkpointed_layers,
        "change": estimated.change, "tokens": duration and duration.tokens,
        "tokensPerSecond": duration and round(duration.tokens_per_second, 1),
        "hours": duration and round(duration.hours, 3), "cost": duration and str(duration.cost),
    }


def _show(spec: FineTuneJobSpec, model: Architecture, target: EstimateTarget, estimated: HostEstimate,
          machine: ThisMachine | None) -> None:
    plan, duration = estimated.found.plan, estimated.found.duration
    say(f"{spec.method.type}, quantization {spec.method.quantization}, on {spec.model.source} "
        f"({model.parameters / 1e9:.2f} billion parameters)")
    table = Table.grid(padding=(0, 2))
    for name, size in estimated.terms.items():
        if size:
            table.add_row(f"  {name}", f"{size / _GIB:8.2f} GiB", _TERMS[name])
    table.add_row("  together", f"{estimated.total / _GIB:8.2f} GiB", _available(target, machine))
    Console(highlight=False, soft_wrap=True).print(table)
    say(f"Plan: {plan.micro_batch_size} rows in a forward pass, gradient checkpointing "
        f"{checkpointing_in_words(plan.checkpointed_layers, model.layers)}")
    say("It fits." if estimated.fits else f"It does not fit: {estimated.change}")
    if duration is None:
        say("Hours and cost: not known without the number of rows; give --rows N")
    else:
        cost = target.price.in_words(duration.cost) if target.price.per_hour else "at no price (--price USD sets one)"
        say(f"Training: at most {duration.tokens} tokens at about {duration.tokens_per_second:.0f} a second: "
            f"{duration.hours:.2g} hours, {cost}; without loading, evaluation and upload")
    say("All of these are estimates; docs/explanation/preflight.md says how they are made.")


def _available(target: EstimateTarget, machine: ThisMachine | None) -> str:
    """What there is of memory, in words."""
    if target.memory_bytes:
        here = "this machine's " if machine else ""
        return f"of {target.memory_bytes / _GIB:.0f} GiB on {here}{target.name} ({USABLE:.0%} of them usable)"
    if machine:
        return f"of {machine.memory_bytes / _GIB:.1f} GiB on this machine, which has no GPU"
    return f"of the host's memory ({target.name})"
