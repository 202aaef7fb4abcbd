"""`finetune estimate --by`: the same job on each accelerator of the catalogue, or by each method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
from finetune_api import FineTuneJob, FineTuneJobSpec, resolve_defaults
from finetune_api.estimate import (
    Architecture,
    TrainingRows,
    alternative_methods,
    checkpointing_in_words,
    left_out,
    rank_by_cost,
)
from finetune_api.estimate.catalogue import KNOWN_ACCELERATORS
from finetune_api.reading.loading import InvalidJob, parse_job
from finetune_api.spec.method import MethodSpec
from finetune_api.values.quantities import hours_in_words
from rich.console import Console
from rich.table import Table

from finetune_cli.estimate_target import CPU, ChosenTarget, TargetOptions, choose_target
from finetune_cli.host_estimate import HostEstimate, RowOptions, estimate_on_host
from finetune_cli.terminal import say

ACCELERATOR, METHOD = "accelerator", "method"
_GIB = 1024**3
_WIDTH = 200
"""Columns for the table, which is narrower: a line is whole in a narrow terminal and in a file too."""
_ANY_TOKENS = 1_000_000
"""Tokens by which costs are compared where the number of rows is not known: their order is the same for any number."""


@dataclass(frozen=True)
class Alternative:
    """What a job could be.

    Attributes:
        name: the accelerator, or the method as people call it.
        own: whether this is what the job's file says.
        chosen: what it trains on.
        estimate: what it needs; None if it is no valid job.
        refused: why it is no valid job; None if it is one.
        layers: layers of the model.
        rows_known: whether the number of rows is known, and so hours and cost.
        samples: whether the method samples responses too, which hours and cost leave out.
    """

    name: str
    own: bool
    chosen: ChosenTarget
    estimate: HostEstimate | None
    refused: str | None
    layers: int
    rows_known: bool = True
    samples: bool = False

    @property
    def fits(self) -> bool:
        """Whether it is a valid job, and fits."""
        return self.estimate is not None and self.estimate.fits


def by_accelerator(spec: FineTuneJobSpec, model: Architecture, options: TargetOptions, rows: RowOptions
                   ) -> list[Alternative]:
    """A job on each accelerator of the catalogue, the cheapest first of those that it fits on.

    The prices are the catalogue's. `budget.hourlyRate` is that of the job's own accelerator alone.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        options: what the command line says of the target, which must be nothing.
        rows: what the command line says of the rows.

    Raises:
        click.UsageError: the command line names a target.
    """
    if options != TargetOptions(None, None, None):
        raise click.UsageError("--by accelerator estimates for every accelerator of the catalogue at its price: leave "
                               "out --accelerator, --memory and --price")
    unpriced = spec.model_copy(update={"budget": spec.budget.model_copy(update={"hourly_rate": None})})
    known, found = rows.known(spec), []
    for name in (*KNOWN_ACCELERATORS, CPU):
        own = name == spec.compute.accelerator
        chosen = choose_target(spec if own else unpriced, TargetOptions(name, None, None))
        found.append(_alternative(name, own, spec, model, chosen, known))
    return _cheapest_first(found)


def by_method(job: FineTuneJob, model: Architecture, chosen: ChosenTarget, rows: RowOptions) -> list[Alternative]:
    """A job with each method, the cheapest first of those that fit.

    Args:
        job: the job as its file says.
        model: the model's sizes.
        chosen: what it trains on.
        rows: what the command line says of the rows.
    """
    found = []
    for number, method in enumerate(alternative_methods(job.spec.method)):
        name = method.display_name
        try:
            spec = resolve_defaults(_with_method(job, method))
        except InvalidJob as error:
            why = "; ".join(map(str, error.errors))
            found.append(Alternative(name, number == 0, chosen, None, why, model.layers))
        else:
            found.append(_alternative(name, number == 0, spec, model, chosen, rows.known(spec)))
    return _cheapest_first(found)


def _with_method(job: FineTuneJob, method: MethodSpec) -> FineTuneJobSpec:
    """The job's spec with another method.

    Raises:
        InvalidJob: the job says something that this method does not allow.
    """
    document = job.model_copy(update={"spec": job.spec.model_copy(update={"method": method})})
    return parse_job(document.model_dump(mode="json", by_alias=True, exclude_unset=True)).spec


def _alternative(name: str, own: bool, spec: FineTuneJobSpec, model: Architecture, chosen: ChosenTarget,
                 rows: TrainingRows) -> Alternative:
    estimate = estimate_on_host(spec, model, chosen, replace(rows, tokens=rows.tokens or _ANY_TOKENS))
    samples = spec.method.samples_responses(spec.training.max_length)
    return Alternative(name, own, chosen, estimate, None, model.layers, rows.tokens is not None, samples)


def _cheapest_first(found: Sequence[Alternative]) -> list[Alternative]:
    """What fits before what does not; methods whose cost is only a part of the whole come after the others."""
    def rank(one: Alternative) -> tuple[object, ...]:
        duration = one.estimate.found.duration if one.estimate else None
        if one.estimate is None or duration is None:
            return (True,)
        return False, not one.fits, one.samples, *rank_by_cost(duration.hours, one.chosen.target.price), \
            one.estimate.total

    return sorted(found, key=rank)


def show_alternatives(found: Sequence[Alternative], by: str, as_json: bool) -> None:
    """Show alternatives as a table, or as one JSON object.

    Args:
        found: the alternatives, in their order.
        by: `accelerator` or `method`.
        as_json: print one JSON object.
    """
    if as_json:
        say(json.dumps({"by": by, "alternatives": [_document(one) for one in found]}, indent=2))
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for title in (by, "fits", "memory", "rows a pass", "checkpointing", "tokens/s", "hours", "cost", "price/h"):
        table.add_column(title, no_wrap=True,
                         justify="left" if title in (by, "fits", "checkpointing") else "right")
    for one in found:
        table.add_row(*_row(one))
    Console(highlight=False, soft_wrap=True, width=_WIDTH).print(table)
    for one in found:
        if one.refused:
            say(f"{one.name} is not possible: {one.refused}")
    if any(one.chosen.target.name == CPU and not one.chosen.machine for one in found):
        say(f"{CPU}: a pod needs this much host memory (spec.compute.memory)")
    if any(one.samples for one in found):
        say("≥: without the time of the responses that the method samples")
    if not all(one.rows_known for one in found):
        say("Hours and cost: not known without the number of rows; give --rows N")
    say(f"* is what the job says. These are estimates; hours and cost are {left_out(samples=False)}.")


def _row(one: Alternative) -> tuple[str, ...]:
    name, price = f"{one.name}{' *' if one.own else ''}", one.chosen.target.price
    if one.estimate is None:
        return name, "not possible"
    plan, duration = one.estimate.found.plan, one.estimate.found.duration
    least = "≥ " if one.samples else ""
    hours, cost = "–", "–"
    if duration and one.rows_known:
        hours, cost = f"{least}{hours_in_words(duration.hours)}", f"{least}{price.in_words(duration.cost)}"
    return (name, "yes" if one.fits else "no", f"{one.estimate.total / _GIB:.2f} GiB", str(plan.micro_batch_size),
            checkpointing_in_words(plan.checkpointed_layers, one.layers),
            f"{duration.tokens_per_second:.0f}" if duration else "–", hours, cost, f"{price.per_hour:f}")


def _document(one: Alternative) -> dict[str, Any]:
    target, estimate = one.chosen.target, one.estimate
    said = {"name": one.name, "own": one.own, "accelerator": target.name, "pricePerHour": str(target.price.per_hour),
            "fits": one.fits, "refused": one.refused}
    if estimate is None:
        return said
    plan, duration = estimate.found.plan, estimate.found.duration
    return {
        **said, "memoryBytes": estimate.total, "acceleratorBytes": target.memory_bytes, "change": estimate.change,
        "microBatchSize": plan.micro_batch_size, "checkpointedLayers": plan.checkpointed_layers,
        "tokensPerSecond": duration and round(duration.tokens_per_second, 1),
        "hours": round(duration.hours, 3) if duration and one.rows_known else None,
        "cost": str(duration.cost) if duration and one.rows_known else None, "samples": one.samples,
    }
