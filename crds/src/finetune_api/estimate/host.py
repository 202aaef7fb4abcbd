"""Host memory in bytes for publishing and for reward programs. Training on a GPU needs little host memory."""

from __future__ import annotations

import math

from finetune_api.architecture import Architecture
from finetune_api.estimate.activations import FLOAT32, Machine

PROCESS = 4 * 1024**3
"""Assumed bytes of a trainer's process without the model: libraries, CUDA, rows."""

PROCESS_ON_CPU = 1024**3
"""Bytes of a trainer's process without the model on a machine without a GPU: Python, torch and the libraries. Measured
before the model was loaded: 0.94 GiB."""

PROGRAM = 512 * 1024**2
"""Largest number of bytes that one reward program may use."""

_WHILE_DEQUANTIZING = 1.2
"""By the whole model: 1.10 was measured for nf4, 0.96 for none (a random Llama of 551 million parameters, bfloat16)."""


def merging_bytes(model: Architecture, machine: Machine) -> int:
    """Bytes that `exports: [merged]` needs: it builds the whole model in host memory."""
    return PROCESS + math.ceil(_WHILE_DEQUANTIZING * model.parameters * machine.dtype_bytes)


def mapped_weights_bytes(model: Architecture) -> int:
    """The weights' file in float32, which a trainer on a CPU reads by mapping it: its pages count as the process's."""
    return model.parameters * FLOAT32


def programs_at_once(processors: int, memory_bytes: int, held_bytes: int = PROCESS) -> int:
    """How many programs may run at once beside a trainer: one for each processor, as far as memory goes, at least one.

    Args:
        processors: those of the pod that the trainer may use.
        memory_bytes: the pod's memory, for the trainer's share of it.
        held_bytes: what the trainer itself holds.
    """
    return max(1, min(processors, (memory_bytes - held_bytes) // PROGRAM))
