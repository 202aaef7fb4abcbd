"""Decides how many rows a forward pass gets, and how many layers are checkpointed: at first, and after an OOM."""

from __future__ import annotations

from typing import NamedTuple

import torch
from finetune_api.estimate import (
    Accelerators,
    Machine,
    RowLengths,
    UnknownArchitecture,
    checkpointing_in_words,
    choose_plan,
    read_architecture,
    rows_of_full_pass,
)
from finetune_api.spec.training import Toggle

from finetune_trainer.errors import OutOfMemory
from finetune_trainer.training.training_run import TrainingRun


class MicroBatch(NamedTuple):
    """The size of a forward pass.

    Attributes:
        rows: rows per forward pass.
        checkpointed_layers: how many layers, from the first on, store only their input, so that the backward pass
            computes their activations again (gradient checkpointing).
    """

    rows: int
    checkpointed_layers: int

    def checkpointing_in_words(self, run: TrainingRun) -> str | None:
        """Which layers are checkpointed; None if none are."""
        return checkpointing_in_words(self.checkpointed_layers, _layers(run)) if self.checkpointed_layers else None


def first_micro_batch(run: TrainingRun) -> MicroBatch:
    """The first micro-batch: as the job says, else what fits.

    On a GPU the memory estimate decides. If it does not know the architecture, a full pass with checkpointing is tried.
    """
    training, gpu = run.spec.training, run.device.is_gpu
    lengths = [len(row) for row in run.data.train]
    if gpu:
        try:
            model = read_architecture(run.model.config.to_dict())
        except UnknownArchitecture:
            pass
        else:
            memory = torch.cuda.get_device_properties(run.device.torch_device).total_memory
            machine = Machine(True, run.device.dtype.itemsize, by_rows=run.by_rows,
                              kernels="kernels" in run.identity.environment)
            accelerators = Accelerators(machine, memory, run.world.size)
            plan = choose_plan(run.spec, model, accelerators, RowLengths(max(lengths), sum(lengths) / len(lengths)))
            return MicroBatch(plan.micro_batch_size, plan.checkpointed_layers)
    checkpointing = training.gradient_checkpointing is Toggle.ENABLED or (
        training.gradient_checkpointing is Toggle.AUTO and gpu)
    return MicroBatch(training.micro_batch_size or _rows_by_tokens(run, lengths), _layers(run) if checkpointing else 0)


def next_micro_batch(run: TrainingRun, current: MicroBatch) -> MicroBatch:
    """The next micro-batch to try after one that did not fit: first with all layers checkpointed, then half the
    rows.

    Raises:
        OutOfMemory: there is none. Of several processes none can try again, since the others wait in a collective.
    """
    training = run.spec.training
    if run.world.size > 1:
        raise OutOfMemory(f"spec.training.microBatchSize: {current.rows} rows per forward pass do not fit into the "
                          "accelerator's memory. Lower microBatchSize or maxLength, or set quantization: nf4")
    if run.device.is_gpu and training.gradient_checkpointing is Toggle.AUTO and \
            current.checkpointed_layers < _layers(run):
        run.state.note("out of accelerator memory: training continues with gradient checkpointing in all layers")
        return MicroBatch(current.rows, _layers(run))
    if current.rows == 1:
        raise OutOfMemory("spec.training.maxLength: a single row does not fit into the accelerator's memory. Lower "
                          "maxLength, set quantization: nf4, or set gradientCheckpointing: enabled")
    smaller = MicroBatch(max(1, current.rows // 2), current.checkpointed_layers)
    run.state.note(f"out of accelerator memory: training continues with {smaller.rows} rows per forward pass "
                   f"(batchSize stays {training.batch_size})")
    return smaller


def _layers(run: TrainingRun) -> int:
    """All layers of the model."""
    return int(run.model.config.get_text_config().num_hidden_layers)


def _rows_by_tokens(run: TrainingRun, lengths: list[int]) -> int:
    typical = sum(lengths) / len(lengths) if run.spec.training.packing else max(lengths)
    return rows_of_full_pass(run.spec.training.batch_size // run.world.size, typical, run.device.is_gpu)
