"""Training a model's own parameters where they are; where several processes train, divided among them."""

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
    """Train parameters of the run's model; errors as in `fine_tune`.

    What is evaluated is what is published: the model is given back in the type that the base was in.

    Args:
        run: with the base model.
        chosen: names of its parameters that are trained.
        trained_model: what a model with these parameters is as a result.
    """
    if run.world.size == 1:
        # The weights are kept in float32; on a GPU a forward pass rounds them to bfloat16 as it goes.
        round_back = unfreeze([parameter for name, parameter in run.model.named_parameters() if name in chosen])
        trained = fine_tune(run, trained_model(run.model))
        round_back()
        return trained
    try:
        shard(run.model, chosen, run.device, run.world.size)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory("the accelerator's memory doesn't suffice for the model and one layer of it in float32, "
                          "before it is divided: choose spec.compute.accelerator with more memory") from error
    trained = fine_tune(run, trained_model(run.model))
    assert run.reload is not None
    # A model that was divided can't be put together in place: its parts go into a fresh one, where it is needed.
    model = run.reload() if run.world.is_main else None
    gather_into(model, run.model)
    # Who leaves before the first process has everything would break its connection.
    run.world.barrier("gathered", lambda: None, _GATHERING_SECONDS)
    return replace(trained, trained_model=trained_model(model)) if model is not None else trained
