"""Trains parameters of the base model itself: all of them or some. Several processes shard the model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from finetune_trainer.distributed.sharding import gather_into, shard, unfreeze
from finetune_trainer.errors import OutOfMemory
from finetune_trainer.trained_model import TrainedModel
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.training.training_run import TrainingRun

_GATHERING_SECONDS = 600.0


def train_base_weights(run: TrainingRun, chosen: Collection[str],
                       trained_model: Callable[[PreTrainedModel], TrainedModel]) -> TrainingResult:
    """Train parameters of the base model; errors as in `fine_tune`.

    Afterwards the parameters have the type of the base again, so that the evaluated model is the published one.

    Args:
        run: the training run, with the base model.
        chosen: the names of the parameters to train.
        trained_model: makes the result of a model with these parameters.
    """
    if run.world.size == 1:
        # Training keeps float32 weights; on a GPU a forward pass rounds them to bfloat16.
        round_back = unfreeze([parameter for name, parameter in run.model.named_parameters() if name in chosen])
        trained = fine_tune(run, trained_model(run.model))
        round_back()
        return trained
    try:
        shard(run.model, chosen, run.device, run.world.size)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory("spec.compute.accelerator: the model and one of its layers in float32 do not fit into the "
                          "accelerator's memory, which they must before the model is sharded. Choose an accelerator "
                          "with more memory") from error
    trained = fine_tune(run, trained_model(run.model))
    if run.reload is None:
        raise ValueError("a sharded model needs TrainingRun.reload")
    # FSDP cannot put a sharded model together in place, so rank 0 gathers the shards into a fresh one.
    model = run.reload() if run.world.is_main else None
    gather_into(model, run.model)
    # A process that left before rank 0 has everything would break the connection.
    run.world.barrier("gathered", lambda: None, _GATHERING_SECONDS)
    return replace(trained, trained_model=trained_model(model)) if model is not None else trained
