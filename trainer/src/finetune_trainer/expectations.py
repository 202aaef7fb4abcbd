"""What a job is expected to take on its accelerator, once its model and its rows are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.estimate import On, UnknownArchitecture, estimate_job, read_architecture
from finetune_api.messages import JobEstimate, RunConfig

from finetune_trainer.data.steps import total_steps
from finetune_trainer.errors import OutOfMemory

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
    """
    try:
        model = read_architecture(model_config)
    except UnknownArchitecture:
        return None
    spec, accelerator, training = config.spec, config.accelerator, config.spec.training
    typical = sum(lengths) / len(lengths)
    steps = total_steps(len(lengths), training.batch_size, training.epochs, training.max_steps)
    estimate = estimate_job(
        spec, model, On(accelerator.name, accelerator.memory_bytes, accelerator.hourly_rate),
        {one.name: one.memory_bytes for one in config.catalogue if one.memory_bytes},
        round(steps * training.batch_size * typical), max(lengths), typical, processes)
    plan, duration = estimate.plan, estimate.duration
    assert duration is not None
    if not plan.fits:
        assert accelerator.memory_bytes is not None
        raise OutOfMemory(
            f"spec: {spec.method.type} with quantization {spec.method.quantization} needs about "
            f"{plan.memory.total / _GIB:.1f} GiB of accelerator memory even with {plan.micro_batch_size} row"
            f"{'' if plan.micro_batch_size == 1 else 's'} in a pass; {accelerator.name} has "
            f"{accelerator.memory_bytes / _GIB:.0f} GiB, of which 92 % are reckoned with: {estimate.change}")
    return JobEstimate(
        memory_bytes=plan.memory.total, micro_batch_size=plan.micro_batch_size,
        gradient_checkpointing=plan.gradient_checkpointing, tokens=duration.tokens, hours=round(duration.hours, 3),
        cost=duration.cost, checkpoint_bytes=estimate.checkpoint_bytes)
