"""A job's whole estimate: the plan, what to change if it does not fit, and time and money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_api.architecture import Architecture
from finetune_api.estimate.advice import advise_change
from finetune_api.estimate.memory import checkpoint_bytes, machine_for
from finetune_api.estimate.plan import Accelerators, MemoryPlan, RowLengths, choose_plan
from finetune_api.estimate.speed import TrainingDuration, estimate_duration, operations_per_second, operations_per_token
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.money import Price

_CORES = 2.0
"""Assumed of a trainer on a CPU whose job names none."""


@dataclass(frozen=True)
class EstimateTarget:
    """What a job trains on.

    Attributes:
        name: the accelerator's name in the catalogue, or `cpu`.
        memory_bytes: memory of one; None if that is not known.
        price: price of the accelerators, and how many train together.
    """

    name: str
    memory_bytes: int | None
    price: Price


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a job trains on, as far as they are known.

    Attributes:
        tokens: tokens to train on, over all epochs; None if that is not known.
        lengths: lengths of single rows.
    """

    tokens: int | None = None
    lengths: RowLengths = field(default_factory=RowLengths)


@dataclass(frozen=True)
class Estimate:
    """What a job needs.

    Attributes:
        plan: how it is computed, and the memory of that.
        change: the change that makes it fit, in words; None where it fits.
        duration: time and money, up to `runPolicy.stopAfter`; None where the number of tokens is not known.
        checkpoint_bytes: size of a checkpoint.
    """

    plan: MemoryPlan
    change: str | None
    duration: TrainingDuration | None
    checkpoint_bytes: int


def estimate_job(spec: FineTuneJobSpec, model: Architecture, target: EstimateTarget, catalogue: Mapping[str, int],
                 rows: TrainingRows) -> Estimate:
    """Estimate a job.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        target: what it trains on.
        catalogue: memory in bytes of other accelerators by name.
        rows: the rows, as far as they are known.
    """
    machine, count = machine_for(target.name, spec.training.precision), target.price.accelerators
    accelerators = Accelerators(machine, target.memory_bytes, count)
    plan = choose_plan(spec, model, accelerators, rows.lengths)
    change = None
    if not plan.fits and target.memory_bytes:
        change = advise_change(spec, model, accelerators, catalogue, rows.lengths)
    duration = None
    if rows.tokens:
        cores = float(spec.compute.cpu.value) if spec.compute.cpu else _CORES
        duration = estimate_duration(
            trained_tokens(spec, rows.tokens), operations_per_token(model, spec.method, plan.checkpointed_layers),
            operations_per_second(model, target.name, cores), target.price)
    return Estimate(plan, change, duration, checkpoint_bytes(model, spec.method, machine, count))


def trained_tokens(spec: FineTuneJobSpec, tokens: int) -> int:
    """Of the tokens of a whole run those that a job trains on: it may stop after a share of its steps."""
    return max(1, round(tokens * (spec.run_policy.stop_after or 1.0)))
