"""Faults on demand, for tests of what cannot be made to happen otherwise: `FINETUNE_FAULT=kind:where`.

| value | what happens |
|---|---|
| `nan:STEP` | the loss of that step is NaN |
| `oom:ROWS` | a micro-batch of more rows than that runs out of accelerator memory |
| `oom-sampling:ROWS` | the same of a batch of responses being sampled |
| `oom-scoring:ROWS` | the same of sampled responses being scored |
| `oom-answering:ROWS` | the same of held-out rows being answered |
| `kill:MOMENT` | the process kills itself (SIGKILL) when it first gets to that moment |

Moments: `baseline`, `step-N` (in the middle of step N), `checkpoint-N` (its files are there, its manifest is not),
`checkpointed-N`, `trained`, `exported` (what was learnt is uploaded), `results` (everything is, without a manifest).
"""

from __future__ import annotations

import os
import signal

import torch

VARIABLE = "FINETUNE_FAULT"


def _wanted(kind: str) -> str | None:
    name, _, where = os.environ.get(VARIABLE, "").partition(":")
    return where if name == kind else None


def loss_becomes_nan(step: int) -> bool:
    """Whether the loss of this step shall be NaN."""
    return _wanted("nan") == str(step)


def run_out_of_memory(rows: int, kind: str = "oom") -> None:
    """Raise as the accelerator's allocator would, for a batch that is larger than the fault allows."""
    most = _wanted(kind)
    if most is not None and rows > int(most):
        raise torch.OutOfMemoryError(f"simulated: {rows} rows at once")


def reach(moment: str) -> None:
    """Die here, if this is the moment."""
    if _wanted("kill") == moment:
        os.kill(os.getpid(), signal.SIGKILL)
