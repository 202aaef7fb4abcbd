"""`finetune estimate`: what a job needs, without a cluster and without its model's weights."""

from __future__ import annotations

import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from finetune_api import ExitCode, FineTuneJobSpec, resolve_defaults
from finetune_api.estimate import (
    Architecture,
    Estimate,
    EstimateTarget,
    RowLengths,
    TrainingRows,
    UnknownArchitecture,
    estimate_job,
    read_architecture,
)
from finetune_api.estimate.catalogue import CPU_PRICE, CURRENCY, KNOWN_ACCELERATORS
from finetune_api.estimate.plan import USABLE
from finetune_api.values.money import Price
from finetune_api.values.quantities import parse_quantity
from rich.console import Console
from rich.table import Table

from finetune_cli.errors import CommandFailed
from finetune_cli.job_file import read_job, with_absolute_locations
from finetune_cli.terminal import say

_GIB = 1024**3
_TERMS = {
    "weights": "the base model's weights", "adapter": "the adapter, in float32", "gradients": "gradients",
    "optimizer": "optimizer state", "activations": "what the backward pass reads", "loss": "the loss of the answers",
    "buffers": "one layer's dequantised weight", "context": "CUDA's context (assumed)",
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(1), metavar="N",
              help="Rows to learn from; without it the lines of a local .jsonl file, or dataset.maxSamples.")
@click.option("--row-tokens", type=click.IntRange(1), metavar="N",
              help="Tokens of a row on average; without it training.maxLength, which is the most.")
@click.option("--memory", metavar="QUANTITY", help="Memory of one accelerator, such as 24Gi, for one of your own.")
@click.option("--price", type=click.FLOAT, metavar="USD", help="Price of one accelerator for one hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def estimate(context: click.Context, file: Path, rows: int | None, row_tokens: int | None, memory: str | None,
             price: float | None, as_json: bool) -> None:
    """Estimate memory, hours and cost of the FineTuneJob in FILE.

    Reads the model's configuration, but no weights; needs no cluster. Exits with 71 if the job does not fit on its
    accelerator, with 66 if the configuration can't be had.
    """
    spec = resolve_defaults(with_absolute_locations(read_job(file), file.parent).spec)
    accelerator = _accelerator(spec, memory, price)
    try:
        model = read_architecture(_model_config(spec))
    except UnknownArchitecture as error:
        raise CommandFailed(f"spec.model.source: {spec.model.source} can't be estimated: {error}",
                            ExitCode.BAD_CONFIG) from error
    catalogue = {name: known.memory_bytes for name, known in KNOWN_ACCELERATORS.items()}
    found = estimate_job(spec, model, accelerator, catalogue, TrainingRows(
        _tokens(spec, rows, row_tokens), RowLengths(typical=row_tokens)))
    if as_json:
        say(json.dumps(_document(model, accelerator, found), indent=2))
    else:
        _show(spec, model, accelerator, found)
    context.exit(ExitCode.OK if found.plan.fits else ExitCode.OUT_OF_MEMORY)


def _accelerator(spec: FineTuneJobSpec, memory: str | None, price: float | None) -> EstimateTarget:
    name = spec.compute.accelerator
    known = KNOWN_ACCELERATORS.get(name)
    if known is None and name != "cpu" and memory is None:
        raise CommandFailed(f"spec.compute.accelerator: {name} is not known here: give its --memory, or write one of "
                            f"{', '.join(sorted(KNOWN_ACCELERATORS))}, cpu", ExitCode.BAD_CONFIG)
    try:
        size = int(parse_quantity(memory).value) if memory else known.memory_bytes if known else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--memory'") from error
    usual = known.hourly_price if known else CPU_PRICE if name == "cpu" else Decimal(0)
    written = Decimal(str(price)) if price is not None else spec.budget.hourly_rate
    paid = Price(usual if written is None else written, CURRENCY, spec.compute.processes(name))
    return EstimateTarget(name, size, paid)


def _model_config(spec: FineTuneJobSpec) -> dict[str, Any]:
    """The model's `config.json`; what isn't a folder of this machine is had by the trainer's own ways."""
    source = spec.model.source
    if source.scheme == "pvc":
        raise CommandFailed(f"spec.model.source: {source} is a claim of a cluster, which can't be read here: the "
                            "preflight there checks it", ExitCode.MISSING_INPUT)
    if source.scheme == "file" and not source.path.lower().endswith(".gguf"):
        path = source.local_path() / "config.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return content
        except OSError as error:
            raise CommandFailed(f"spec.model.source: {path}: {error.strerror}", ExitCode.MISSING_INPUT) from error
        except ValueError as error:
            raise CommandFailed(f"spec.model.source: {path} is not JSON: {error}", ExitCode.BAD_CONFIG) from error
    try:
        from finetune_trainer.errors import TrainerError
        from finetune_trainer.model.files.description import describe_model
        from finetune_trainer.run.entry import quieten
    except ImportError as error:
        raise CommandFailed(f"the configuration of {source} is read by the trainer, which can't be loaded ({error}): "
                            "install it with pip install 'finetune-cli[run]'", ExitCode.INTERNAL) from error
    quieten()
    with tempfile.TemporaryDirectory(prefix="finetune-estimate-") as folder:
        try:
            return describe_model(spec.model, spec.output.s3, Path(folder), lambda text: None).config
        except TrainerError as error:
            raise CommandFailed(str(error), error.exit_code) from error


def _tokens(spec: FineTuneJobSpec, rows: int | None, row_tokens: int | None) -> int | None:
    """Tokens to train on; None where the number of rows is not known."""
    training = spec.training
    each = min(row_tokens or training.max_length, training.max_length)
    if training.max_steps:
        return training.max_steps * training.batch_size * each
    known = rows or _lines(spec)
    if known is None:
        return None
    if spec.dataset.evaluation_fraction and not rows:
        known -= round(known * spec.dataset.evaluation_fraction)
    return round(min(known, spec.dataset.max_samples or known) * (training.epochs or 1.0)) * each


def _lines(spec: FineTuneJobSpec) -> int | None:
    source = spec.dataset.source
    if source.scheme == "file" and source.path.endswith(".jsonl") and source.local_path().is_file():
        with source.local_path().open("rb") as file:
            return sum(1 for line in file if line.strip()) or None
    return spec.dataset.max_samples


def _document(model: Architecture, accelerator: EstimateTarget, found: Estimate) -> dict[str, Any]:
    plan, duration = found.plan, found.duration
    return {
        "parameters": model.parameters, "accelerator": accelerator.name, "acceleratorBytes": accelerator.memory_bytes,
        "memoryBytes": plan.memory.total, "terms": dict(plan.memory.terms()), "fits": plan.fits,
        "microBatchSize": plan.micro_batch_size, "gradientCheckpointing": plan.gradient_checkpointing,
        "change": found.change, "tokens": duration and duration.tokens,
        "tokensPerSecond": duration and round(duration.tokens_per_second, 1),
        "hours": duration and round(duration.hours, 3), "cost": duration and str(duration.cost),
    }


def _show(spec: FineTuneJobSpec, model: Architecture, accelerator: EstimateTarget, found: Estimate) -> None:
    plan, duration = found.plan, found.duration
    say(f"{spec.method.type}, quantization {spec.method.quantization}, on {spec.model.source} "
        f"({model.parameters / 1e9:.2f} billion parameters)")
    table = Table.grid(padding=(0, 2))
    for name, size in plan.memory.terms():
        if size:
            table.add_row(f"  {name}", f"{size / _GIB:8.2f} GiB", _TERMS[name])
    table.add_row("  together", f"{plan.memory.total / _GIB:8.2f} GiB",
                  f"of {accelerator.memory_bytes / _GIB:.0f} GiB on {accelerator.name} ({USABLE:.0%} of them usable)"
                  if accelerator.memory_bytes else f"of the host's memory ({accelerator.name})")
    Console(highlight=False, soft_wrap=True).print(table)
    say(f"Plan: {plan.micro_batch_size} rows in a forward pass, gradient checkpointing "
        f"{'on' if plan.gradient_checkpointing else 'off'}")
    say("It fits." if plan.fits else f"It does not fit: {found.change}")
    if duration is None:
        say("Hours and cost: not known without the number of rows; give --rows N")
    else:
        say(f"Training: {duration.tokens} tokens at about {duration.tokens_per_second:.0f} a second: "
            f"{duration.hours:.2g} hours, {accelerator.price.in_words(duration.cost)}; without loading, evaluation and "
            "upload")
    say("All of these are estimates; docs/explanation/preflight.md says how they are made.")
