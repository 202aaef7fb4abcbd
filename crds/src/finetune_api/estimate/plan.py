"""Which micro-batch size and checkpointing a job gets on its accelerators."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from finetune_api.architecture import Architecture
from finetune_api.estimate.activations import Machine
from finetune_api.estimate.memory import (
    ForwardPass,
    MemoryEstimate,
    estimate_memory,
    estimate_reinforcement,
)
from finetune_api.estimate.speed import operations_per_token
from finetune_api.estimate.trained import trained_by
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Engine, Quantization
from finetune_api.spec.training import Kernels, Toggle

USABLE = 0.92
"""Assumed: the share of an accelerator's memory that a trainer gets; driver, ECC and fragmentation take the rest (a 24
GiB L4 shows 22.5)."""

FULL_PASS = 16_384
"""Tokens that fill a forward pass on a GPU."""

SHORTEST = 256
"""Tokens that fill a forward pass on a CPU."""

_PASS_TOKENS = {Quantization.NF4: 320, Quantization.INT8: 192, Quantization.NONE: 64}
"""Tokens whose computation takes as long as what a pass through the weights costs once: to read them, to expand nf4 and
int8, to start the kernels. Assumed, from the data sheet of an L4: for each nf4 weight 4.5 bytes are moved at 300 GB/s,
and each token takes 2 operations at 42 × 10^12 per second."""

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
        checkpointed_layers: how many layers, from the first on, store only their input in the forward pass, so that the
            backward pass computes their activations again.
        memory: bytes that each accelerator needs.
        fits: whether the accelerator has them; true where its memory is not known.
    """

    micro_batch_size: int
    checkpointed_layers: int
    memory: MemoryEstimate
    fits: bool


def checkpointing_in_words(checkpointed: int, layers: int) -> str:
    """Which of a model's layers are checkpointed: `off`, `in all layers`, `in 4 of 32 layers`."""
    if not checkpointed:
        return "off"
    return "in all layers" if checkpointed >= layers else f"in {checkpointed} of {layers} layers"


def choose_plan(spec: FineTuneJobSpec, model: Architecture, accelerators: Accelerators,
                rows: RowLengths = RowLengths()) -> MemoryPlan:
    """The fastest plan that fits; the smallest one where none fits.

    Of each size of micro-batch, the plan checkpoints as few layers as memory allows. The last layers keep their
    activations: the backward pass frees those first, and needs the memory for layers that it computes again only then.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        accelerators: what the job trains on.
        rows: lengths of the rows, as far as they are known.
    """
    training = spec.training
    longest = min(rows.longest or training.max_length, training.max_length)
    typical = min(rows.typical or longest, longest)
    row_tokens = typical if training.packing else longest
    machine = accelerators.machine.computing(model, native=spec.engine is Engine.NATIVE,
                                             kernels=spec.training.kernels is not Kernels.TORCH)
    accelerators = replace(accelerators, machine=machine)
    allowed = _checkpointed(spec, model, accelerators)
    plans = []
    for size in _sizes(spec, accelerators, row_tokens):
        plan_with = _planned(spec, model, accelerators, (size, longest, round(longest + (size - 1) * row_tokens)))
        # More checkpointed layers never need more memory, but for the last one: its activations come back at the peak.
        first = bisect_left(allowed, True, hi=len(allowed) - 1, key=lambda layers: plan_with(layers).fits)
        plans.append(plan_with(allowed[first]))
    fitting = [plan for plan in plans if plan.fits]
    return min(fitting, key=lambda plan: _pass_cost(spec, model, plan, row_tokens)) if fitting else plans[-1]


def _planned(spec: FineTuneJobSpec, model: Architecture, accelerators: Accelerators, lengths: tuple[int, int, int]
             ) -> Callable[[int], MemoryPlan]:
    """The plan with a number of checkpointed layers, as a function of that number.

    Args:
        spec: the job's spec.
        model: the model's sizes.
        accelerators: what the job trains on.
        lengths: rows of a micro-batch, tokens of the longest row, and tokens of the longest row among ordinary ones.
    """
    training, available = spec.training, accelerators.memory_bytes
    size, longest, tokens = lengths
    virtual = spec.method.definition.virtual_tokens(spec.method.settings)
    forward_pass = ForwardPass(tokens + size * virtual, min(tokens, longest), packed=training.packing and size > 1,
                               alone=size * accelerators.count >= training.batch_size)
    rollout = spec.method.definition.rollout_tokens(spec.method.settings, longest)

    def plan(layers: int) -> MemoryPlan:
        memory = estimate_memory(model, spec.method, forward_pass, layers, accelerators.machine, accelerators.count)
        if rollout:
            reinforcement = estimate_reinforcement(model, spec.method, *rollout, accelerators.machine)
            memory = max(memory, reinforcement, key=lambda one: one.total)
        return MemoryPlan(size, layers, memory, fits=available is None or memory.total <= USABLE * available)

    return plan


def _sizes(spec: FineTuneJobSpec, accelerators: Accelerators, row_tokens: float) -> list[int]:
    """Sizes of micro-batches to consider, the largest first."""
    training = spec.training
    if training.micro_batch_size:
        return [training.micro_batch_size]
    sizes = [rows_of_full_pass(training.batch_size // accelerators.count, row_tokens, accelerators.machine.gpu)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def rows_of_full_pass(rows: int, row_tokens: float, gpu: bool) -> int:
    """The rows whose tokens use a forward pass well: more would need memory, and save no time.

    The passes of a step are equal: of 16 rows, 8 and 8 rather than 12 and 4.

    Args:
        rows: rows of a step in one process.
        row_tokens: tokens of a row.
        gpu: whether a GPU trains, else a CPU.
    """
    rows = max(1, rows)
    passes = -(-rows // max(1, int((FULL_PASS if gpu else SHORTEST) / row_tokens)))
    return -(-rows // passes)


def _checkpointed(spec: FineTuneJobSpec, model: Architecture, accelerators: Accelerators) -> Sequence[int]:
    """The numbers of checkpointed layers that the job allows, the smallest first."""
    wanted = spec.training.gradient_checkpointing
    if wanted is Toggle.DISABLED or (wanted is Toggle.AUTO and not accelerators.machine.gpu):
        return (0,)
    if wanted is Toggle.ENABLED:
        return (model.layers,)
    # Unsloth checkpoints all layers by itself, or none. What FSDP gathers is not known well enough to fill the rest.
    sharded = accelerators.count > 1 and trained_by(spec.method, model).own
    return (0, model.layers) if sharded or spec.engine is not Engine.NATIVE else range(model.layers + 1)


def _pass_cost(spec: FineTuneJobSpec, model: Architecture, plan: MemoryPlan, row_tokens: float) -> float:
    """What training costs for each token, up to a factor: operations, and what each pass through the weights costs."""
    tokens = plan.micro_batch_size * row_tokens
    passes = operations_per_token(model, spec.method, plan.checkpointed_layers)
    return passes * (1 + _PASS_TOKENS[spec.method.quantization] / tokens)
