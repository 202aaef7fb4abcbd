"""`finetune estimate`: what a job needs, without a cluster and without its model's weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from finetune_api import ExitCode, FineTuneJobSpec, resolve_defaults
from finetune_api.estimate import (
    Architecture,
    EstimateTarget,
    TrainingRows,
    UnknownArchitecture,
    checkpointing_in_words,
    left_out,
    read_architecture,
)
from finetune_api.estimate.plan import USABLE
from finetune_api.experiment.expansion import Run
from finetune_api.spec.compute import AUTO
from finetune_api.values.quantities import hours_in_words
from rich.console import Console
from rich.table import Table

from finetune_cli import trainer
from finetune_cli.errors import CommandFailed
from finetune_cli.estimate_alternatives import ACCELERATOR, METHOD, by_accelerator, by_method, show_alternatives
from finetune_cli.estimate_target import ChosenTarget, TargetOptions, choose_target
from finetune_cli.experiment_estimate import EstimatedRun, show_experiment_estimate
from finetune_cli.host_estimate import HostEstimate, RowOptions, estimate_on_host
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
@click.option("--by", type=click.Choice([ACCELERATOR, METHOD]),
              help="One line for each accelerator of the catalogue, or for each method; the cheapest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def estimate(context: click.Context, /, file: Path, as_json: bool, by: str | None, rows: int | None,
             row_tokens: int | None, **target: Any) -> None:
    """Estimate memory, hours and cost of the FineTuneJob in FILE, or of each job of a FineTuneExperiment and of all.

    Without --accelerator the estimate is for finetune run on this machine: its GPU, or its processors and memory. With
    --accelerator it is for a cluster that has this accelerator. With --by it compares what the job could be. Reads the
    model's configuration, but no weights; needs no cluster. Exits with 71 if a job does not fit (with --by: if nothing
    does), with 66 if the configuration can't be had.
    """
    options, known = TargetOptions(**target), RowOptions(rows, row_tokens)
    experiment = read_experiment(file)
    if experiment is not None:
        if by is not None:
            raise click.UsageError(f"--by {by} compares what one job could be, and {file} holds a FineTuneExperiment")
        jobs = _of_runs(with_absolute_jobs(experiment, file.parent).runs, options, known)
        show_experiment_estimate(jobs, experiment.resource.spec.budget.max_cost, as_json)
        context.exit(ExitCode.OK if all(job.fits for job in jobs) else ExitCode.OUT_OF_MEMORY)
    job = with_absolute_locations(read_job(file), file.parent)
    spec = resolve_defaults(job.spec)
    if by is not None:
        found = by_method(job, _model(spec), choose_target(spec, options), known) if by == METHOD else (
            by_accelerator(spec, _model(spec), options, known))
        show_alternatives(found, by, as_json)
        context.exit(ExitCode.OK if any(one.fits for one in found) else ExitCode.OUT_OF_MEMORY)
    model, chosen = _model(spec), choose_target(spec, options)
    estimated = estimate_on_host(spec, model, chosen, known.known(spec))
    if as_json:
        say(json.dumps(_document(model, chosen.target, estimated), indent=2))
    else:
        _show(spec, model, chosen.target, estimated, chosen.machine)
        if chosen.machine:
            named = spec.compute.accelerator
            say(f"For a cluster: finetune estimate {f'--accelerator {named}' if named != AUTO else '--by accelerator'} "
                f"{file}")
    context.exit(ExitCode.OK if estimated.fits else ExitCode.OUT_OF_MEMORY)


def _model(spec: FineTuneJobSpec) -> Architecture:
    """The model's sizes.

    Raises:
        CommandFailed: the model's configuration can't be had, or does not give its sizes.
    """
    try:
        return read_architecture(_model_config(spec))
    except UnknownArchitecture as error:
        raise CommandFailed(f"spec.model.source: {spec.model.source} can't be estimated: {error}",
                            ExitCode.BAD_CONFIG) from error


def _of_runs(runs: Sequence[Run], options: TargetOptions, rows: RowOptions) -> list[EstimatedRun]:
    """The jobs of an experiment; each model is read once."""
    models: dict[str, Architecture] = {}
    found = []
    for run in runs:
        spec = resolve_defaults(run.job.spec)
        read_from = spec.model_dump_json(include={"model": True, "output": {"s3"}})
        if read_from not in models:
            models[read_from] = _model(spec)
        found.append(_of_run(run, spec, models[read_from], choose_target(spec, options), rows.known(spec)))
    return found


def _of_run(run: Run, spec: FineTuneJobSpec, model: Architecture, chosen: ChosenTarget, rows: TrainingRows
            ) -> EstimatedRun:
    found = estimate_on_host(spec, model, chosen, rows)
    duration = found.found.duration
    return EstimatedRun(run, spec.method.display_name, chosen.target, found.total, found.fits, found.change,
                        duration.hours * float(run.own_share) / run.share if duration else None,
                        run.own_part(duration.cost) if duration else None)


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
            f"{hours_in_words(duration.hours)} hours, {cost}; "
            f"{left_out(spec.method.samples_responses(spec.training.max_length))}")
    say("All of these are estimates; docs/explanation/preflight.md says how they are made.")


def _available(target: EstimateTarget, machine: ThisMachine | None) -> str:
    """What there is of memory, in words."""
    if target.memory_bytes:
        here = "this machine's " if machine else ""
        return f"of {target.memory_bytes / _GIB:.0f} GiB on {here}{target.name} ({USABLE:.0%} of them usable)"
    if machine:
        return f"of {machine.memory_bytes / _GIB:.1f} GiB on this machine, which has no GPU"
    return f"of the host's memory ({target.name})"
