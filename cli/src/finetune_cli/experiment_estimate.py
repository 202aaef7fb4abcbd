"""The estimate of an experiment: a row for each job, and the sum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune_api.estimate import EstimateTarget
from finetune_api.experiment.expansion import Run
from rich.console import Console
from rich.table import Table

from finetune_cli.terminal import say

_GIB = 1024**3


@dataclass(frozen=True)
class EstimatedRun:
    """What one job of an experiment needs.

    Attributes:
        run: the job.
        method: the usual name of its method.
        target: what it is estimated for.
        memory_bytes: memory.
        fits: whether it fits.
        change: the change that makes it fit, in words; None where it fits.
        hours: hours of training; None where the number of rows is not known.
        cost: their cost.
    """

    run: Run
    method: str
    target: EstimateTarget
    memory_bytes: int
    fits: bool
    change: str | None
    hours: float | None
    cost: Decimal | None


def show_experiment_estimate(jobs: Sequence[EstimatedRun], max_cost: Decimal | None, as_json: bool) -> None:
    """Show the estimate of all jobs, and whether the budget pays them.

    Args:
        jobs: the jobs.
        max_cost: the experiment's `budget.maxCost`.
        as_json: print one JSON object.
    """
    costs = [job.cost for job in jobs if job.cost is not None]
    total = sum(costs, Decimal(0)) if len(costs) == len(jobs) else None
    hours = sum(job.hours or 0.0 for job in jobs)
    if as_json:
        together = {"hours": None if total is None else round(hours, 3), "cost": None if total is None else str(total)}
        say(json.dumps({"jobs": [_document(job) for job in jobs], **together, "fits": all(job.fits for job in jobs)},
                       indent=2))
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for title in ("variant", "method", "part", "on", "memory", "hours", "cost"):
        table.add_column(title, justify="right" if title in ("memory", "hours", "cost") else "left")
    for job in jobs:
        table.add_row(job.run.variant, job.method, _part(job.run), job.target.name,
                      f"{job.memory_bytes / _GIB:.2f} GiB" + ("" if job.fits else " (does not fit)"),
                      "–" if job.hours is None else f"{job.hours:.2g}", "–" if job.cost is None else f"{job.cost:f}")
    Console(highlight=False, soft_wrap=True).print(table)
    for job in jobs:
        if not job.fits:
            say(f"{job.run.variant} does not fit: {job.change}")
    if total is None:
        say("Hours and cost: not known without the number of rows; give --rows N")
        return
    say(f"All {len(jobs)} jobs: at most {hours:.2g} hours, {jobs[0].target.price.in_words(total)}; without loading, "
        "evaluation and upload")
    if max_cost is not None and total > max_cost:
        say(f"spec.budget.maxCost is {max_cost:f}, below this estimate: some jobs would be stopped early, or not be "
            "started")


def _part(run: Run) -> str:
    """Which part of its variant a job is."""
    words = [f"{run.share:g} of the steps" if run.rung is not None else "", f"seed {run.seed}" if run.repeat else ""]
    return ", ".join(filter(None, words)) or "whole"


def _document(job: EstimatedRun) -> dict[str, object]:
    return {"variant": job.run.variant, "job": job.run.name, "settings": job.run.settings or None,
            "method": job.method, "accelerator": job.target.name, "memoryBytes": job.memory_bytes, "fits": job.fits,
            "change": job.change, "hours": None if job.hours is None else round(job.hours, 3),
            "cost": None if job.cost is None else str(job.cost)}
