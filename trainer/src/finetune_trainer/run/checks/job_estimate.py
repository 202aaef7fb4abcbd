"""The estimate of a job whose model and rows are known: memory, hours and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune_api.estimate import (
    PROCESS,
    PROGRAM,
    Architecture,
    Estimate,
    EstimateTarget,
    MemoryEstimate,
    RowLengths,
    TrainingRows,
    UnknownArchitecture,
    estimate_job,
    machine_for,
    merging_bytes,
    read_architecture,
    trained_tokens,
)
from finetune_api.messages import JobEstimate, RunConfig
from finetune_api.methods.reft import RewardType
from finetune_api.spec.output import Export
from finetune_api.spec.training import TrainingSpec

from finetune_trainer.data.batches.steps import Layout, lay_out, step_rows, total_steps
from finetune_trainer.errors import BadConfig, OutOfMemory

_GIB = 1024**3


def estimate_training(config: RunConfig, model_config: Mapping[str, Any], lengths: Sequence[int],
                      processes: int | None = None) -> JobEstimate | None:
    """Memory, hours and cost of a job; None for a model of an unknown architecture.

    Args:
        config: the run configuration.
        model_config: the content of the model's config.json.
        lengths: the tokens of each training row.
        processes: the number of processes that train; None for as many as the job asks for.

    Raises:
        OutOfMemory: no plan fits on the accelerator; the message names the change that makes one fit.
        BadConfig: the merged model, or the programs of a reward, do not fit into host memory.
    """
    try:
        model = read_architecture(model_config)
    except UnknownArchitecture:
        return None
    spec, accelerator, training = config.spec, config.accelerator, config.spec.training
    processes = processes or spec.compute.processes(accelerator.name)
    typical = sum(lengths) / len(lengths)
    steps = total_steps(len(lengths), training.batch_size, training.epochs, training.max_steps)
    tokens = round(steps * training.batch_size * typical)
    target = EstimateTarget(accelerator.name, accelerator.memory_bytes, accelerator.price(processes))
    catalogue = {one.name: one.memory_bytes for one in config.catalogue if one.memory_bytes}
    rows = TrainingRows(tokens, RowLengths(max(lengths), typical))
    estimate = estimate_job(spec, model, target, catalogue, rows)
    if not estimate.plan.fits:
        raise OutOfMemory(_does_not_fit(config, estimate))
    plan = estimate.plan
    _check_host(config, model, plan.memory)
    if not training.packing:
        layout = Layout(plan.micro_batch_size, False, 0, processes)
        rows = replace(rows, tokens=padded_tokens(lengths, training, layout, steps))
        estimate = estimate_job(spec, model, target, catalogue, rows)
    duration = estimate.duration
    if duration is None:
        raise ValueError("the job has no tokens to train on")
    return JobEstimate(
        memory_bytes=plan.memory.total, micro_batch_size=plan.micro_batch_size,
        gradient_checkpointing=plan.checkpointed_layers > 0,
        checkpointed_layers=plan.checkpointed_layers, tokens=trained_tokens(spec, tokens),
        hours=round(duration.hours, 3), cost=duration.cost, checkpoint_bytes=estimate.checkpoint_bytes)


def padded_tokens(lengths: Sequence[int], training: TrainingSpec, layout: Layout, steps: int) -> int:
    """The tokens that all forward passes compute, padding included, as the loader forms the micro-batches.

    Args:
        lengths: the tokens of each training row.
        training: the job's training settings.
        layout: how rows form micro-batches.
        steps: the steps of the whole run; those after the first pass over the data count as the first ones.
    """
    counted = min(steps, max(1, len(lengths) // training.batch_size))
    padded = sum(len(lines) * max(sum(lengths[index] for index in line) for line in lines)
                 for indices in step_rows(len(lengths), training.batch_size, training.seed, counted)
                 for lines in lay_out(indices, lengths, layout))
    return round(padded * steps / counted)


def _does_not_fit(config: RunConfig, estimate: Estimate) -> str:
    """The message for a job that no plan fits: the need, the limit and the change that helps."""
    method, accelerator, plan = config.spec.method, config.accelerator, estimate.plan
    rows = "1 row" if plan.micro_batch_size == 1 else f"{plan.micro_batch_size} rows"
    return (f"spec: {method.type} with quantization {method.quantization} needs about "
            f"{plan.memory.total / _GIB:.1f} GiB of accelerator memory even with {rows} per forward pass; "
            f"{accelerator.name} has {(accelerator.memory_bytes or 0) / _GIB:.0f} GiB, and a plan may use 92 % of "
            f"it: {estimate.change}")


def _check_host(config: RunConfig, model: Architecture, memory: MemoryEstimate) -> None:
    """Check the host memory for what follows later: the programs of a reward, and the merged model.

    Raises:
        BadConfig: it is too small.
    """
    limit = config.accelerator.host_memory_bytes
    machine = machine_for(config.accelerator.name, config.spec.training.precision)
    if limit is None:
        return
    reft = config.spec.method.reft
    if reft and reft.reward.type is RewardType.PROGRAM:
        # Each process runs one program at a time for certain, and more if the machine has room.
        processes = config.spec.compute.gpus_per_node if machine.gpu else 1
        needed = processes * (PROCESS + PROGRAM) + (0 if machine.gpu else memory.total)
        if needed > limit:
            raise BadConfig(f"spec.method.reft.reward.type: Program runs programs of up to {PROGRAM >> 20} MiB beside "
                            f"the trainer, which need about {needed / _GIB:.1f} GiB of host memory together; the job "
                            f"has {limit / _GIB:.1f} GiB. Raise spec.compute.memory to {math.ceil(needed / _GIB)}Gi")
    if Export.MERGED not in config.spec.output.exports:
        return
    # On a CPU the trained model is in host memory too.
    needed = merging_bytes(model, machine) + (0 if machine.gpu else memory.weights)
    if needed > limit:
        raise BadConfig(f"spec.output.exports: merged needs about {needed / _GIB:.1f} GiB of host memory, since the "
                        f"merged model is made there; the job has {limit / _GIB:.1f} GiB. Raise spec.compute.memory "
                        f"to {math.ceil(needed / _GIB)}Gi, or remove merged")
