"""How much one forward pass gets at first, and whether it keeps its activations; memory trouble makes it less later."""

from __future__ import annotations

import torch
from finetune_api.estimate import Accelerators, Machine, RowLengths, UnknownArchitecture, choose_plan, read_architecture
from finetune_api.spec.training import Toggle

from finetune_trainer.training.training_run import TrainingRun

_CPU_TOKENS = 256
_GPU_TOKENS = 16_384


def first_micro_batch(run: TrainingRun) -> tuple[int, bool]:
    """Rows in a forward pass, and whether activations are computed again: what the job writes, else what fits.

    On a GPU the memory estimate chooses; for a model whose sizes it can't tell, a full pass with checkpointing.
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
            accelerators = Accelerators(Machine(True, run.device.dtype.itemsize), memory, run.world.size)
            plan = choose_plan(run.spec, model, accelerators, RowLengths(max(lengths), sum(lengths) / len(lengths)))
            return plan.micro_batch_size, plan.gradient_checkpointing
    checkpointing = training.gradient_checkpointing is Toggle.ENABLED or (
        training.gradient_checkpointing is Toggle.AUTO and gpu)
    return training.micro_batch_size or _filling(run, lengths), checkpointing


def _filling(run: TrainingRun, lengths: list[int]) -> int:
    """Rows whose tokens fill a forward pass well without filling the memory."""
    tokens = _GPU_TOKENS if run.device.is_gpu else _CPU_TOKENS
    typical = sum(lengths) / len(lengths) if run.spec.training.packing else max(lengths)
    fitting = max(1, int(tokens / typical))
    rows = run.spec.training.batch_size // run.world.size
    # Equal parts: 12 of 16 rows would make passes of 12 and 4.
    return -(-rows // max(1, -(-rows // fitting)))
