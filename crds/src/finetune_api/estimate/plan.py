"""Which micro-batch size and checkpointing a job gets on its accelerators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.architecture import Architecture
from finetune_api.estimate.memory import (
    ForwardPass,
    Machine,
    MemoryEstimate,
    estimate_memory,
    estimate_reinforcement,
)
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.training import Toggle

USABLE = 0.92
"""Assumed: the share of an accelerator's memory that a trainer gets; driver, ECC and fragmentation take the rest (a 24
GiB L4 shows 22.5)."""

FULL_PASS = 16_384
"""Tokens that fill a forward pass on a GPU."""

WORTHWHILE_PASS = 2_048
"""Tokens below which a larger pass with checkpointing is faster than this one without."""

SHORTEST = 256

@dataclass(frozen=True)
class Accelerators:
    """What a job trains on.

    Attributes:
        machine: kind and precision of each.
        memory_bytes: memory of one; None if that is not known.
        count: how many share each step.
    """

    machine: Machine
    memory_bytes: int | None
    count: int = 1


@dataclass(frozen=True)
class RowLengths:
    """Lengths of the rows in tokens.

    Attributes:
        longest: of the longest row; None where the rows are not known, which means `training.maxLength`.
        typical: of a row on average; None where that is not known, which means the longest.
    """

    longest: int | None = None
    typical: float | None = None



@dataclass(frozen=True)
class MemoryPlan:
    """How a job is computed, and the memory that this needs.

    Attributes:
        micro_batch_size: rows in one forward pass.
        gradient_checkpointing: whether the backward pass computes activations again.
        memory: bytes that each accelerator needs.
        fits: whether the accelerator has them; true where its memory is not known.
    """

    micro_batch_size: int
    gradient_checkpointing: bool
    memory: MemoryEstimate
    fits: bool


def choose_plan(spec: FineTuneJobSpec, model: Architecture, accelerators: Accelerators,
                rows: RowLengths = RowLengths()) -> MemoryPlan:
    """The first plan that fits, the fastest first; the smallest one where none fits.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        accelerators: what the job trains on.
        rows: lengths of the rows, as far as they are known.
    """
    training, available = spec.training, accelerators.memory_bytes
    longest = min(rows.longest or training.max_length, training.max_length)
    typical = min(rows.typical or longest, longest)
    candidates = _candidates(spec, accelerators, typical if training.packing else longest)
    for micro_batch_size, checkpointing in candidates:
        others = typical if training.packing else longest
        # A forward pass may hold the longest row among ordinary ones.
        tokens = round(longest + (micro_batch_size - 1) * others)
        forward_pass = ForwardPass(tokens, min(tokens, longest), packed=training.packing and micro_batch_size > 1,
                                   alone=micro_batch_size * accelerators.count >= training.batch_size)
        memory = estimate_memory(model, spec.method, forward_pass, checkpointing, accelerators.machine,
                                 accelerators.count)
        if rollout := spec.method.definition.rollout_tokens(spec.method.settings, longest):
            reinforcement = estimate_reinforcement(model, spec.method, *rollout, accelerators.machine)
            memory = max(memory, reinforcement, key=lambda one: one.total)
        plan = MemoryPlan(micro_batch_size, checkpointing, memory,
                          fits=available is None or memory.total <= USABLE * available)
        if plan.fits:
            break
    return plan


def _candidates(spec: FineTuneJobSpec, accelerators: Accelerators, row_tokens: float) -> Iterator[tuple[int, bool]]:
    """Micro-batch size and checkpointing of each plan, the fastest first; there is at least one."""
    training, machine = spec.training, accelerators.machine
    rows = max(1, training.batch_size // accelerators.count)
    if training.micro_batch_size:
        sizes = [training.micro_batch_size]
    else:
        passes = -(-rows // max(1, int((FULL_PASS if machine.gpu else SHORTEST) / row_tokens)))
        sizes = [-(-rows // passes)]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // 2))
    wanted = training.gradient_checkpointing
    if wanted is Toggle.AUTO and not machine.gpu:
        wanted = Toggle.DISABLED
    if wanted is not Toggle.ENABLED:
        yield from ((size, False) for size in sizes
                    if wanted is Toggle.DISABLED or size == sizes[0] or size * row_tokens >= WORTHWHILE_PASS)
    if wanted is not Toggle.DISABLED:
        yield from ((size, True) for size in sizes)
