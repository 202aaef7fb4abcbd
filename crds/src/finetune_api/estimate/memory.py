"""Bytes that training takes at its peak, term by term.

Every term follows from what the trainer really does: float32 adapters, gradients and, on a CPU, optimizer state; 8-bit
AdamW on a GPU (Dettmers et al., 2022, arXiv:2110.02861); logits in tiles and of answers alone; a forward pass that
keeps what the backward pass reads. Where several processes train a model's own weights, these are divided (FSDP), with
gradients and a float32 optimizer state. `benchmarks/memory_estimate.py` compares it with what torch allocates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_api.architecture import Architecture, Linear
from finetune_api.estimate.trained import trained_by
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.spec.method import MethodSpec, Quantization
from finetune_api.spec.training import Precision

FLOAT32 = 4
BFLOAT16 = 2
CONTEXT = 600 * 1024**2
"""Assumed: what CUDA's context, cuBLAS' workspaces and the loaded kernels take on a GPU."""

_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight: 4 bits, a scale of 8 bits for 64 of them, and one of 32 bits for 256 scales (arXiv:2305.14314)."""

_EIGHT_BIT_STATE = 2 * (1 + 4 / 256)
"""Bytes a trained number: two moments of 8 bits, with a scale of 32 bits for 256 of them."""

_TILE_TOKENS = 4096
_TILE_WORDS = 32_768
_TILES = 8


@dataclass(frozen=True)
class Machine:
    """What it is computed on.

    Attributes:
        gpu: whether it is a GPU.
        dtype_bytes: size of a number that is computed with.
    """

    gpu: bool
    dtype_bytes: int


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass holds.

    Attributes:
        tokens: of all its lines, padding included.
        length: of its longest line.
        answers: tokens that are learnt from; None takes all of them for answers.
        packed: whether rows share a line, which needs a mask.
        alone: whether it is all that its process does in a step.
    """

    tokens: int
    length: int
    answers: int | None = None
    packed: bool = False
    alone: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak, by what they are for."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    buffers: int
    context: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(size for _, size in self.terms())

    def terms(self) -> Iterator[tuple[str, int]]:
        """The terms by name, in the order in which they are explained."""
        yield from vars(self).items()


def machine_for(accelerator: str, precision: Precision) -> Machine:
    """What the trainer computes in on an accelerator, by its name in the catalogue: bfloat16 where there is any."""
    gpu = accelerator != "cpu"
    lacks_bfloat16 = any(name in accelerator.lower() for name in ("t4", "v100", "p100"))
    exact = not gpu or precision is Precision.FLOAT32 or (precision is Precision.AUTO and lacks_bfloat16)
    return Machine(gpu, FLOAT32 if exact else BFLOAT16)


def estimate_memory(model: Architecture, method: MethodSpec, forward_pass: ForwardPass, checkpointing: bool,
                    machine: Machine, processes: int = 1) -> MemoryEstimate:
    """The peak of a training step in one process, in bytes.

    Args:
        model: the model's sizes.
        method: the method, its settings and the quantization.
        forward_pass: what one forward pass gets.
        checkpointing: whether activations are computed again in the backward pass.
        machine: what it is computed on.
        processes: how many train together; they divide the weights among them where the model's own are trained.
    """
    trained = trained_by(method, model)
    shares = _shares(trained, processes)
    block = forward_pass.tokens * _kept_of_a_block(model, trained, forward_pass, machine)
    # Checkpointing keeps what goes into every block, and all of the one whose backward pass is under way.
    kept = forward_pass.tokens * trained.depth * model.hidden * machine.dtype_bytes + block if checkpointing else \
        trained.depth * block
    working = forward_pass.tokens * _working_of_a_block(model, trained, machine)
    loss = _loss(model, forward_pass, machine)
    # The loss is done when the first block's backward pass begins: the larger of the two is the peak.
    if checkpointing:
        loss = max(0, loss - block - working)
    gradients = math.ceil(trained.parameters * FLOAT32 / shares)
    activations = kept + working + _mask(forward_pass, machine)
    partial = trained.own and not trained.embeddings
    if forward_pass.alone and processes == 1 and not partial:
        # Gradients take the place of activations that are done with, but for those of embeddings and head, which come
        # before that; after an earlier pass of the same step they would be there already. Where few layers are trained
        # whole, one layer's gradients come before much is done with. The first block's activations are there until
        # all gradients but its own are.
        last = block + working - FLOAT32 * (trained.parameters - trained.embeddings) // trained.depth
        activations = max(last, activations - gradients + FLOAT32 * trained.embeddings, 0)
    elif processes > 1 and shares == 1:
        # DDP sums gradients in buffers of their own, which stay: beside activations first, then beside gradients.
        activations = max(activations, gradients)
    memory = MemoryEstimate(
        weights=_weights(model, method.quantization, trained, machine, shares) + FLOAT32 * trained.reference,
        adapter=trained.added * FLOAT32,
        gradients=gradients,
        optimizer=_optimizer(trained, machine, shares),
        activations=activations,
        loss=loss if checkpointing else max(0, loss - working),
        buffers=_buffers(model, method.quantization, trained, machine) if shares == 1 else _gathered(model, machine),
        context=CONTEXT if machine.gpu else 0,
    )
    if shares == 1:
        return memory
    # After training the first process puts the whole model together beside its part, and evaluates it.
    together = model.parameters * machine.dtype_bytes + memory.weights + memory.context
    return replace(memory, buffers=memory.buffers + max(0, together - memory.total))


def estimate_reinforcement(model: Architecture, method: MethodSpec, tokens: int, response: int, machine: Machine
                           ) -> MemoryEstimate:
    """The peak of learning from one sampled response, in bytes: PPO computes no activations again.

    Args:
        model: the model's sizes.
        method: ReFT and its settings.
        tokens: of the longest question and response together.
        response: of the longest response.
        machine: what it is computed on.
    """
    memory = estimate_memory(model, method, ForwardPass(tokens, tokens, 0), False, machine)
    # Logits as computed, in float32, their logarithms, and what the entropy and the backward pass make of them.
    return replace(memory, loss=response * model.vocabulary * (machine.dtype_bytes + 4 * FLOAT32))


def checkpoint_bytes(model: Architecture, method: MethodSpec, machine: Machine, processes: int = 1) -> int:
    """Size of a checkpoint: what is trained in float32, the optimizer's state, and what ReFT compares with."""
    trained = trained_by(method, model)
    shares = _shares(trained, processes)
    state = _optimizer(trained, machine, shares) * shares
    return trained.parameters * FLOAT32 + state + FLOAT32 * trained.reference


def _shares(trained: TrainedParameters, processes: int) -> int:
    """Among how many processes the model is divided; PPO keeps it whole in each."""
    return processes if trained.own and not trained.reference else 1


def _optimizer(trained: TrainedParameters, machine: Machine, shares: int) -> int:
    """Bytes of optimizer state in one process; the 8-bit optimizer can't divide it, and is too coarse for PPO."""
    if machine.gpu and shares == 1 and not trained.reference:
        # transformers keeps that of embeddings in 32 bits.
        rest = trained.parameters - trained.embeddings
        return math.ceil(rest * _EIGHT_BIT_STATE + trained.embeddings * 2 * FLOAT32)
    return math.ceil(trained.parameters * 2 * FLOAT32 / shares)


def _weights(model: Architecture, quantization: Quantization, trained: TrainedParameters, machine: Machine,
             shares: int) -> int:
    """The base: its blocks' matrices quantized; embeddings, head, norms and biases never are."""
    if trained.own:
        held = FLOAT32 * trained.own + (model.parameters - trained.own) * machine.dtype_bytes
        if shares > 1:
            return math.ceil(held / shares)
        # Kept in float32; autocast keeps a rounded copy of what it multiplies with until the backward pass is done.
        copies = BFLOAT16 * min(trained.own, model.block_weights) if machine.dtype_bytes == BFLOAT16 else 0
        return held + copies
    rest = model.parameters - model.block_weights
    if quantization is Quantization.NF4:
        return math.ceil(model.block_weights * _NF4) + rest * machine.dtype_bytes
    if quantization is Quantization.INT8:
        scales = FLOAT32 * model.layers * sum(linear.outputs for linear in model.linears)
        return model.block_weights + scales + rest * machine.dtype_bytes
    return model.parameters * machine.dtype_bytes


def _gathered(model: Architecture, machine: Machine) -> int:
    """What is whole for a while where all else is divided.

    Embeddings, head and last norm, with their gradients, from the beginning of a forward pass to the end of its
    backward pass, and what goes into their sum, in float32. Of the blocks the one that is computed and the next, whose
    weights come meanwhile, each of them once more as it is received; and the first one's gradients, with their sum.
    """
    size, block = machine.dtype_bytes, model.block_parameters
    outside = model.parameters - model.layers * block
    return outside * (2 * size + FLOAT32) + block * (5 * size + FLOAT32)


def _kept_of_a_block(model: Architecture, trained: TrainedParameters, forward_pass: ForwardPass, machine: Machine
                     ) -> int:
    """Bytes a token that one block keeps for its backward pass."""
    size = machine.dtype_bytes
    # Both norms keep their input, in float32.
    total = 2 * model.hidden * FLOAT32
    # Queries, keys, values and the output of attention; with a mask the keys are repeated for each group of heads.
    keys = model.attention if forward_pass.packed or not machine.gpu else model.key_values
    total += (2 * model.attention + 2 * keys) * size
    # Gate, its activation, and the value beside it.
    total += 3 * model.intermediate * size
    sources = set()
    for linear in model.linears:
        if linear.name not in trained.layers:
            continue
        # On a GPU each adapter casts its input for itself.
        if (machine.gpu and trained.rank) or linear.source not in sources:
            already = linear.source == "attention" and not (machine.gpu and trained.rank)
            total += 0 if already else linear.inputs * size
        sources.add(linear.source)
        total += trained.rank * size
        if trained.dropout:
            total += linear.inputs * (size + 1)
        if trained.dense:
            total += 2 * linear.outputs * size
        elif trained.magnitude and linear.source in ("attention", "product"):
            # What the others give is kept by what comes after them.
            total += linear.outputs * size
    if trained.own:
        total += 2 * model.hidden * size
    return total


def _mask(forward_pass: ForwardPass, machine: Machine) -> int:
    """The mask that keeps the rows of a line apart: one for all blocks, as truth values and as numbers to add."""
    return forward_pass.tokens * forward_pass.length * (1 + machine.dtype_bytes) if forward_pass.packed else 0


def _working_of_a_block(model: Architecture, trained: TrainedParameters, machine: Machine) -> int:
    """Bytes a token for the gradients that are under way in one block: of the residual stream and of gate and value."""
    return (2 * model.hidden + 2 * model.intermediate) * machine.dtype_bytes


def _loss(model: Architecture, forward_pass: ForwardPass, machine: Machine) -> int:
    """Hidden states of the answers with their gradients in float32, and tiles of logits instead of all of them."""
    answers = forward_pass.tokens if forward_pass.answers is None else forward_pass.answers
    lines = min(answers, _TILE_TOKENS)
    tiles = lines * _TILE_WORDS * machine.dtype_bytes
    if not machine.gpu:
        # Without Triton the gradient of a tile's softmax goes through seven more of its size.
        tiles += (_TILES - 1) * lines * min(model.vocabulary, _TILE_WORDS) * FLOAT32
    return answers * model.hidden * (machine.dtype_bytes + FLOAT32) + tiles


def _buffers(model: Architecture, quantization: Quantization, trained: TrainedParameters, machine: Machine) -> int:
    """What one layer at a time needs beside activations: its weight dequantised, and PEFT's DoRA's whole update."""
    chosen = [linear for linear in model.linears if linear.name in trained.layers]
    largest = max((linear.weights for linear in model.linears), default=0)
    dequantised = 0 if quantization is Quantization.NONE else largest * machine.dtype_bytes
    if not trained.dense:
        return dequantised
    return dequantised + max((_update(linear, machine) for linear in chosen), default=0)


def _update(linear: Linear, machine: Machine) -> int:
    """PEFT multiplies both factors with an identity matrix, adds the weight, and takes the norms of the rows."""
    return linear.inputs**2 * machine.dtype_bytes + 3 * linear.weights * machine.dtype_bytes
