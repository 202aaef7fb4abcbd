"""Environment variables that torch reads once: the trainer sets them before torch is imported."""

from __future__ import annotations

import os

_ALLOCATOR = "PYTORCH_ALLOC_CONF"
_ALLOCATOR_OF_EARLIER_RELEASES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def set_torch_variables() -> None:
    """Set what torch cannot be told later. A variable that is set already keeps its value.

    `PYTORCH_ALLOC_CONF`: the allocator's segments of GPU memory can grow. With segments of fixed size, batches of
    changing lengths leave gaps that no later batch fits into.
    `TORCH_CUDNN_SDPA_DEPRIORITIZED`: attention takes the flash kernel first. On Hopper and Blackwell torch would take
    that of cuDNN, which builds an execution plan for each new shape of a batch.
    """
    if not any(name in os.environ for name in (_ALLOCATOR, *_ALLOCATOR_OF_EARLIER_RELEASES)):
        os.environ[_ALLOCATOR] = "expandable_segments:True"
    os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
