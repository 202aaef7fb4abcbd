"""A job's whole estimate: the plan, what to change where it doesn't fit, and time and money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from finetune_api.estimate.architecture import Architecture
from finetune_api.estimate.fit import Plan, advice, choose
from finetune_api.estimate.memory import checkpoint_bytes, machine_for
from finetune_api.estimate.speed import Duration, estimate_duration
from finetune_api.spec.job import FineTuneJobSpec

_CORES = 2.0
"""Assumed of a trainer on a CPU whose job names none."""


@dataclass(frozen=True)
class On:
    """What a job trains on.

    Attributes:
        name: of the accelerator in the catalogue.
        memory_bytes: of one; None if that is not known.
        hourly_rate: price of one for an hour.
    """

    name: str
    memory_bytes: int | None
    hourly_rate: Decimal


@dataclass(frozen=True)
class Estimate:
    """What a job needs.

    Attributes:
        plan: how it is computed, and in what memory.
        change: the change that makes it fit, in words; None where it does.
        duration: time and money; None where the number of tokens is not known.
        checkpoint_bytes: size of a checkpoint.
    """

    plan: Plan
    change: str | None
    duration: Duration | None
    checkpoint_bytes: int


def estimate_job(spec: FineTuneJobSpec, model: Architecture, on: On, catalogue: Mapping[str, int], tokens: int | None,
                 longest: int | None = None, typical: float | None = None, processes: int | None = None) -> Estimate:
    """Estimate a job.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        on: what it trains on.
        catalogue: memory in bytes of other accelerators by name.
        tokens: tokens to train on, over all epochs; None if that is not known.
        longest: tokens of the longest row, where that is known.
        typical: tokens of a row on average, where that is known.
        processes: how many train together; None for as many as the job asks for.
    """
    machine = machine_for(on.name, spec.training.precision)
    processes = processes or spec.compute.processes(on.name)
    plan = choose(spec, model, machine, on.memory_bytes, processes, longest, typical)
    change = None
    if not plan.fits and on.memory_bytes:
        change = advice(spec, model, machine, on.memory_bytes, catalogue, processes, longest)
    cores = float(spec.compute.cpu.value) if spec.compute.cpu else _CORES
    duration = estimate_duration(tokens, model, spec.method, plan.gradient_checkpointing, on.name, processes,
                                 on.hourly_rate, cores) if tokens else None
    return Estimate(plan, change, duration, checkpoint_bytes(model, spec.method, machine, processes))
