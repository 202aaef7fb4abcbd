"""Host memory that publishing takes, in bytes. Training itself takes little of it on a GPU."""

from __future__ import annotations

import math

from finetune_api.estimate.architecture import Architecture
from finetune_api.estimate.memory import Machine

PROCESS = 4 * 1024**3
"""Assumed: what a trainer's process holds beside the model: libraries, CUDA, rows."""

_WHILE_DEQUANTIZING = 1.2
"""By the whole model: 1.10 was measured for nf4, 0.96 for none (a random Llama of 551 million parameters, bfloat16)."""


def merging_bytes(model: Architecture, machine: Machine) -> int:
    """What `exports: [merged]` takes: the whole model is put together in host memory."""
    return PROCESS + math.ceil(_WHILE_DEQUANTIZING * model.parameters * machine.dtype_bytes)
