"""Which AdamW a job trains with, and what its state needs. The trainer and the memory estimate both ask here."""

from __future__ import annotations

import math
from enum import StrEnum

from finetune_api.methods.trained_parameters import TrainedParameters

_FLOAT32 = 4
_EIGHT_BIT_STATE = 2 * (1 + 4 / 256)
"""Bytes per trained parameter: two moments of 8 bits, with a scale of 32 bits for 256 of them."""

MANY_PARAMETERS = 100_000_000
"""Trained numbers of the model itself, from which on the moments have 8 bits: that saves 6 bytes of each, 600 MB."""


class Optimizer(StrEnum):
    """An AdamW, as `optim` of transformers' TrainingArguments names it."""

    ADAMW = "adamw_torch"
    FUSED_ADAMW = "adamw_torch_fused"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"


def choose_optimizer(trained: TrainedParameters, gpu: bool, sharded: bool) -> Optimizer:
    """The optimizer of a job.

    On a GPU torch's fused AdamW updates all parameters in a few kernels, with moments in float32. Paged 8-bit AdamW
    (Dettmers et al., 2022, arXiv:2110.02861) needs a quarter of the memory, but launches a kernel and waits for it for
    each parameter, and its resume is not exact. So it is for methods that train much of the model itself. It cannot
    be sharded, and its moments are too coarse for PPO, so a method with a reference has none either.

    Args:
        trained: what the method trains.
        gpu: whether a GPU trains, else a CPU.
        sharded: whether the processes shard the model.
    """
    if not gpu:
        return Optimizer.ADAMW
    # The moments of embeddings have 32 bits in either optimizer.
    many = trained.own - trained.embeddings >= MANY_PARAMETERS
    return Optimizer.PAGED_ADAMW_8BIT if many and not sharded and not trained.reference else Optimizer.FUSED_ADAMW


def optimizer_bytes(trained: TrainedParameters, gpu: bool, shares: int) -> int:
    """Bytes of optimizer state in one process.

    Args:
        trained: what the method trains.
        gpu: whether a GPU trains, else a CPU.
        shares: number of processes that shard the model; 1 if it is whole in each.
    """
    if choose_optimizer(trained, gpu, shares > 1) is not Optimizer.PAGED_ADAMW_8BIT:
        return math.ceil(trained.parameters * 2 * _FLOAT32 / shares)
    # transformers asks bitsandbytes for 32 bits for embeddings.
    rest = trained.parameters - trained.embeddings
    return math.ceil(rest * _EIGHT_BIT_STATE + trained.embeddings * 2 * _FLOAT32)
