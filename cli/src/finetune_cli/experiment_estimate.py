"""The estimate of an experiment: a row for each job, and the sum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune_api.estimate import EstimateTarget, left_out
from finetune_api.experiment.expansion import Run
from finetune_api.values.quantities import hours_in_words
from rich.console import Console
from rich.table import Table

from finetune_cli.terminal import say

_GIB = 1024**3
_TEXTS = ("variant", "method", "on", "fits")
_WIDTH = 200
"""No cell is cut, also where the output is no terminal."""


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
        hours: hours of training, without those of the rung before; None where the number of rows is not known.
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
    Console(highlight=False, soft_wrap=True, width=_WIDTH).print(_table(jobs))
    for line in dict.fromkeys(f"{job.run.variant} is {job.run.settings}" for job in jobs if job.run.settings):
        say(line)
    for line in dict.fromkeys(f"{job.run.variant} does not fit: {job.change}" for job in jobs if not job.fits):
        say(line)
    if total is None:
        say("Hours and cost: not known without the number of rows; give --rows N")
        return
    on = f" on {jobs[0].target.name}" if _targets(jobs) == 1 else ""
    samples = any(job.run.job.spec.method.samples_responses(job.run.job.spec.training.max_length) for job in jobs)
    say(f"All {len(jobs)} jobs{on}: {'' if samples else 'at most '}{hours_in_words(hours)} hours, "
        f"{jobs[0].target.price.in_words(total)}; {left_out(samples)}")
    if max_cost is not None and total > max_cost:
        say(f"spec.budget.maxCost is {max_cost:f}, below this estimate: some jobs would be stopped early, or not be "
            "started")


def _table(jobs: Sequence[EstimatedRun]) -> Table:
    """A row for each job. A column that would say the same of all jobs is left out: the others need 80 characters."""
    columns = {
        "variant": [job.run.variant for job in jobs],
        "method": [job.method for job in jobs],
        "steps": [f"{float(100 * job.run.own_share):g} %" for job in jobs] if any(job.run.part for job in jobs) else [],
        "seed": [str(job.run.seed) for job in jobs] if any(job.run.repeat for job in jobs) else [],
        "on": [job.target.name for job in jobs] if _targets(jobs) > 1 else [],
        "GiB": [f"{job.memory_bytes / _GIB:.2f}" for job in jobs],
        "fits": ["yes" if job.fits else "no" for job in jobs] if not all(job.fits for job in jobs) else [],
        "hours": ["–" if job.hours is None else hours_in_words(job.hours) for job in jobs],
        "cost": ["–" if job.cost is None else f"{job.cost:f}" for job in jobs],
    }
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown = {title: cells for title, cells in columns.items() if cells}
    for title in shown:
        table.add_column(title, no_wrap=True, justify="left" if title in _TEXTS else "right")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _targets(jobs: Sequence[EstimatedRun]) -> int:
    """For how many accelerators the jobs are estimated."""
    return len({job.target.name for job in jobs})


def _document(job: EstimatedRun) -> dict[str, object]:
    return {"variant": job.run.variant, "job": job.run.name, "settings": job.run.settings or None,
            "method": job.method, "accelerator": job.target.name, "memoryBytes": job.memory_bytes, "fits": job.fits,
            "change": job.change, "hours": None if job.hours is None else round(job.hours, 3),
            "cost": None if job.cost is None else str(job.cost)}
