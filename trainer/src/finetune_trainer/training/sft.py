"""Supervised fine-tuning with TRL's SFTTrainer: starts or resumes, trains, and retries with less after an OOM."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from finetune_api.spec.method import Engine
from torch.nn.parallel import DistributedDataParallel

from finetune_trainer.data.batches.steps import Layout, total_steps
from finetune_trainer.distributed.sharding import is_sharded
from finetune_trainer.errors import StopRequested
from finetune_trainer.trained_model import TrainedModel, count_trained, load_trained, save_trained
from finetune_trainer.training.answers_only import AnswersOnly
from finetune_trainer.training.loader import StepLoader
from finetune_trainer.training.loop import LoopCallback, stop_in_words
from finetune_trainer.training.micro_batch import MicroBatch, first_micro_batch, next_micro_batch
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.resumed_progress import fetch_newest, resume_progress
from finetune_trainer.training.schedule import share_of_peak
from finetune_trainer.training.stop_after import share_done, steps_of_run
from finetune_trainer.training.trainer import StepTrainer, TrainerParts
from finetune_trainer.training.training_run import TrainingRun
from finetune_trainer.training.trl_settings import trl_settings

LEAVING_SECONDS = 300.0
"""How long the processes wait for each other at the end of a training loop."""


@dataclass(frozen=True)
class _Start:
    """Where a training loop starts.

    Attributes:
        step: the steps that are done.
        steps: the steps of the whole run.
        checkpoint: the folder of the checkpoint to resume from; None to start anew.
        untrained: the folder with the parameters as they were before training, for a retry; None for a sharded model,
            which is never retried.
    """

    step: int
    steps: int
    checkpoint: Path | None
    untrained: Path | None


def fine_tune(run: TrainingRun, trained_model: TrainedModel) -> TrainingResult:
    """Train the unfrozen parameters of a model on the run's rows, from the newest checkpoint on if there is one.

    Raises:
        Diverged: the loss became NaN or grew without limit.
        MissingInput: no checkpoint of the job fits that this one has to resume from.
        OutOfMemory: a single row does not fit; or, if several processes train, the first micro-batch does not.
        OutputNotWritable: a checkpoint could not be written.
        PeerFailure: the processes read different inputs, or one of them is gone.
        StopRequested: the run was asked to stop; a checkpoint of the last whole step is in the output.
    """
    start = _start(run, trained_model)
    done = share_done(run, start.step) if start.step < start.steps else None
    if (done or start.step >= start.steps) and start.checkpoint:
        load_trained(trained_model.model, start.checkpoint)
    micro_batch, step = first_micro_batch(run), start.step
    reason = stop_in_words(step, steps_of_run(run), done) if done else None
    while step < start.steps and reason is None:
        try:
            step, reason = _train(run, trained_model, micro_batch, start)
        except torch.OutOfMemoryError as error:
            micro_batch = next_micro_batch(run, micro_batch)
            # The frames of the exception keep the tensors of the failed step alive.
            error.__traceback__ = None
            start = _start_again(run, start)
        gc.collect()
        if run.device.is_gpu:
            torch.cuda.empty_cache()
    return TrainingResult(
        trained_model=trained_model, step=step, total_steps=start.steps,
        resumed_from_step=run.state.resumed_from_step, micro_batch_size=micro_batch.rows,
        checkpointing=micro_batch.checkpointing_in_words(run),
        trainable_parameters=count_trained(trained_model.model), stopped_early=reason,
    )


def _start(run: TrainingRun, trained_model: TrainedModel) -> _Start:
    """Save the untrained parameters, find the checkpoint to resume from, and check that all processes found the same.
    """
    training, identity, sharded = run.spec.training, run.identity, is_sharded(trained_model.model)
    steps = total_steps(len(run.data.train), training.batch_size, training.epochs, training.max_steps)
    # On disk, because a copy of a whole model in memory would need as much again.
    untrained = None if sharded else run.scratch / "untrained"
    if untrained:
        save_trained(trained_model.model, untrained)
    folder = run.resume_folder
    found = fetch_newest(run, folder, sharded)
    step = resume_progress(run, found, folder, steps) if found else 0
    run.world.check_equal({"job": identity.spec_hash, "data": identity.data_hash, "base weights": identity.base_hash,
                           "newest checkpoint": step})
    return _Start(step, steps, folder if found else None, untrained)


def _start_again(run: TrainingRun, start: _Start) -> _Start:
    """Where to start after an OOM: at the newest checkpoint of this attempt, once all of them are uploaded."""
    run.uploader.drain()
    folder = run.resume_folder
    found = run.checkpoints.newest(run.identity, folder)
    return _Start(found.step if found else 0, start.steps, folder if found else None, start.untrained)


def _train(run: TrainingRun, trained_model: TrainedModel, micro_batch: MicroBatch, start: _Start
           ) -> tuple[int, str | None]:
    """Run one training loop with one size of micro-batch.

    Returns:
        The steps that are done, and why training stopped early, or None.
    """
    model, sharded = trained_model.model, start.untrained is None
    layout = layout_of(run, micro_batch.rows, model.config.get_text_config().hidden_size)
    loader = StepLoader(run, layout, start.steps, start.step)
    callback = LoopCallback(run, loader, start.steps, start.step)
    trainer = StepTrainer(model, trl_settings(run, layout, start.steps, micro_batch.checkpointed_layers > 0, sharded),
                          run.tokenizer, callback, TrainerParts(
        loader=loader, learning_rate_factor=trained_model.learning_rate_factor,
        schedule=lambda step: share_of_peak(step, start.steps, run.spec.training), note=run.state.note, sharded=sharded,
        saves_random_state=run.world.size == 1, by_rows=run.by_rows,
        answers_only=None if run.device.is_gpu else AnswersOnly(trained_model.causal),
        checkpointed_layers=micro_batch.checkpointed_layers))
    if start.untrained:
        # TRL has rounded the adapter of a quantized model to bfloat16, and after an OOM the model is half trained.
        load_trained(model, start.untrained)
    _check_precision(model)
    if run.world.size > 1 and not sharded:
        # Every process has loaded the frozen weights itself, and their digests are equal: no need to broadcast them.
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            model, frozen + [name for name, _ in model.named_buffers()])
    trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    run.world.barrier("trained", lambda: None, LEAVING_SECONDS)
    run.uploader.raise_failure()
    step = int(trainer.state.global_step)
    if callback.stopping:
        run.uploader.drain()
        raise StopRequested(f"training stopped at step {step} of {start.steps}; the checkpoint of that step is in the "
                            "output")
    return step, callback.stopped_early


def layout_of(run: TrainingRun, micro_batch_size: int, hidden_size: int) -> Layout:
    """How a run lays out its rows.

    Args:
        run: the training run.
        micro_batch_size: the most rows in one forward pass.
        hidden_size: the model's width.
    """
    # Unsloth finds the rows of a line by their positions, but only if the line is alone in its batch.
    return Layout(micro_batch_size, run.spec.training.packing, hidden_size, run.world.size,
                  one_line=run.by_rows or run.spec.engine is Engine.UNSLOTH)


def _check_precision(model: torch.nn.Module) -> None:
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype is not torch.float32]
    if wrong:
        raise TypeError(f"trained parameters must be float32: {wrong[:3]}")
