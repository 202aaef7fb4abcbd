"""What a job is expected to take on its accelerator, once its model and its rows are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.estimate import (
    PROCESS,
    PROGRAM,
    Architecture,
    EstimateTarget,
    MemoryEstimate,
    RowLengths,
    TrainingRows,
    UnknownArchitecture,
    estimate_job,
    machine_for,
    merging_bytes,
    read_architecture,
)
from finetune_api.messages import JobEstimate, RunConfig
from finetune_api.methods.reft import RewardType
from finetune_api.spec.output import Export

from finetune_trainer.data.batches.steps import total_steps
from finetune_trainer.errors import BadConfig, OutOfMemory

_GIB = 1024**3


def expect(config: RunConfig, model_config: Mapping[str, Any], lengths: Sequence[int], processes: int | None = None
           ) -> JobEstimate | None:
    """Memory, hours and cost of a job; None for a model whose sizes can't be told.

    Args:
        config: the run configuration.
        model_config: the model's `config.json`.
        lengths: tokens of each row to learn from.
        processes: how many train together; None for as many as the job asks for.

    Raises:
        OutOfMemory: no plan fits on the accelerator; the message names the change that makes one fit.
        BadConfig: what is to be published does not fit into the host's memory.
    """
    try:
        model = read_architecture(model_config)
    except UnknownArchitecture:
        return None
    spec, accelerator, training = config.spec, config.accelerator, config.spec.training
    typical = sum(lengths) / len(lengths)
    steps = total_steps(len(lengths), training.batch_size, training.epochs, training.max_steps)
    estimate = estimate_job(
        spec, model, EstimateTarget(accelerator.name, accelerator.memory_bytes, accelerator.price(
            processes or spec.compute.processes(accelerator.name))),
        {one.name: one.memory_bytes for one in config.catalogue if one.memory_bytes},
        TrainingRows(round(steps * training.batch_size * typical), RowLengths(max(lengths), typical)))
    plan, duration = estimate.plan, estimate.duration
    assert duration is not None
    if not plan.fits:
        assert accelerator.memory_bytes is not None
        raise OutOfMemory(
            f"spec: {spec.method.type} with quantization {spec.method.quantization} needs about "
            f"{plan.memory.total / _GIB:.1f} GiB of accelerator memory even with {plan.micro_batch_size} row"
            f"{'' if plan.micro_batch_size == 1 else 's'} in a pass; {accelerator.name} has "
            f"{accelerator.memory_bytes / _GIB:.0f} GiB, of which 92 % are reckoned with: {estimate.change}")
    _check_host(config, model, plan.memory)
    return JobEstimate(
        memory_bytes=plan.memory.total, micro_batch_size=plan.micro_batch_size,
        gradient_checkpointing=plan.gradient_checkpointing, tokens=duration.tokens, hours=round(duration.hours, 3),
        cost=duration.cost, checkpoint_bytes=estimate.checkpoint_bytes)


def _check_host(config: RunConfig, model: Architecture, memory: MemoryEstimate) -> None:
    """Merging comes after training, and programs are run after the warm-up: that it can't work is said before."""
    there = config.accelerator.host_memory_bytes
    machine = machine_for(config.accelerator.name, config.spec.training.precision)
    if there is None:
        return
    reft = config.spec.method.reft
    if reft and reft.reward.type is RewardType.PROGRAM:
        # One for each process; more run at once where there is more.
        shares = config.spec.compute.gpus_per_node if machine.gpu else 1
        needed = shares * (PROCESS + PROGRAM) + (0 if machine.gpu else memory.total)
        if needed > there:
            raise BadConfig(f"spec.method.reft.reward.type: each program that is run for its reward may take "
                            f"{PROGRAM >> 20} MiB beside the trainer, together about {needed / _GIB:.1f} GiB of "
                            f"{there / _GIB:.1f} GiB of host memory: write a larger spec.compute.memory "
                            f"({math.ceil(needed / _GIB)}Gi)")
    if Export.MERGED not in config.spec.output.exports:
        return
    # On a CPU the trained model is in host memory too.
    needed = merging_bytes(model, machine) + (0 if machine.gpu else memory.weights)
    if needed > there:
        raise BadConfig(f"spec.output.exports: merged puts the whole model together in host memory, which takes about "
                        f"{needed / _GIB:.1f} GiB of {there / _GIB:.1f} GiB: write a larger spec.compute.memory "
                        f"({math.ceil(needed / _GIB)}Gi), or leave merged out")
