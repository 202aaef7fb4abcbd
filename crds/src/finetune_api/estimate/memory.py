"""The peak memory of training in bytes, term by term.

Each term follows from what the trainer does: float32 adapters and gradients; the state of the optimizer that
`optimizer.py` chooses; logits in tiles, and for answers only; a forward pass that stores what the backward pass
reads. If several processes train a model's own weights, FSDP shards weights, gradients and optimizer state.
`benchmarks/memory_estimate.py` compares the estimate with torch's allocations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_api.architecture import Architecture, Linear
from finetune_api.estimate.activations import FLOAT32, BlockPass, Machine, StoredActivations
from finetune_api.estimate.optimizer import optimizer_bytes
from finetune_api.estimate.trained import trained_by
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.spec.method import MethodSpec, Quantization
from finetune_api.spec.training import Precision

BFLOAT16 = 2
CONTEXT = 600 * 1024**2
"""Assumed bytes of CUDA's context, cuBLAS' workspaces and the loaded kernels on a GPU."""

_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight: 4 bits, a scale of 8 bits for 64 of them, and one of 32 bits for 256 scales (arXiv:2305.14314)."""

_TILE_TOKENS = 4096
_TILE_WORDS = 32_768
_TILES = 8
_SCALED = 2**25
"""Numbers of a DoRA layer's output that are scaled at a time."""


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass holds.

    Attributes:
        tokens: tokens of all lines, padding included.
        length: tokens of the longest line.
        answers: tokens that count in the loss; None for all tokens.
        packed: whether rows share a line.
        alone: whether it is the only forward pass of its process in a step.
    """

    tokens: int
    length: int
    answers: int | None = None
    packed: bool = False
    alone: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak, by purpose."""

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
        """The sum of all terms."""
        return sum(size for _, size in self.terms())

    def terms(self) -> Iterator[tuple[str, int]]:
        """The terms by name, in the order of the explanation."""
        yield from vars(self).items()


def machine_for(accelerator: str, precision: Precision) -> Machine:
    """The kind of device for an accelerator of the catalogue: it computes in bfloat16 if it supports that."""
    gpu = accelerator != "cpu"
    lacks_bfloat16 = any(name in accelerator.lower() for name in ("t4", "v100", "p100"))
    exact = not gpu or precision is Precision.FLOAT32 or (precision is Precision.AUTO and lacks_bfloat16)
    return Machine(gpu, FLOAT32 if exact else BFLOAT16)


def estimate_memory(model: Architecture, method: MethodSpec, forward_pass: ForwardPass, checkpointed_layers: int,
                    machine: Machine, processes: int = 1) -> MemoryEstimate:
    """The peak memory of a training step in one process, in bytes.

    Args:
        model: the model's sizes.
        method: the method, its settings and the quantization.
        forward_pass: what one forward pass holds.
        checkpointed_layers: how many layers, from the first on, store only their input in the forward pass. The
            backward pass computes their activations again.
        machine: the device of each process.
        processes: the world size. If the model's own weights are trained, the processes shard them.
    """
    trained = trained_by(method, model)
    shares = _shares(trained, processes)
    blocks = BlockPass(model, trained, method.quantization, machine, _masked(forward_pass, trained, machine),
                       shares > 1)
    stored = StoredActivations(blocks, forward_pass.tokens, checkpointed_layers)
    gradients = math.ceil(trained.parameters * FLOAT32 / shares)
    activations = stored.at_peak
    partial = trained.own and not trained.embeddings
    if forward_pass.alone and processes == 1 and not partial:
        # Gradients reuse the memory of freed activations, except those of embeddings and head, which come first.
        # After an earlier forward pass of the same step, gradients exist already. If only a few layers are trained as
        # a whole, one layer's gradients come before many activations are freed.
        activations = stored.at_peak_beside(gradients, FLOAT32 * trained.embeddings)
    elif processes > 1 and shares == 1:
        # DDP reduces gradients in separate buffers, which stay allocated during the forward and the backward pass.
        activations = max(activations, gradients)
    mask = _mask(forward_pass, machine) if blocks.masked else 0
    memory = MemoryEstimate(
        weights=_weights(model, method.quantization, trained, machine, shares) + FLOAT32 * trained.reference,
        adapter=trained.added * FLOAT32,
        gradients=gradients,
        optimizer=optimizer_bytes(trained, machine.gpu, shares),
        activations=activations + mask,
        # The loss is freed before the backward pass of the first block begins: the larger of the two is the peak.
        loss=max(0, _loss(model, forward_pass, machine) - stored.transient),
        buffers=_gathered(model, machine) if shares > 1 else
        _buffers(model, method.quantization, trained, machine, forward_pass.tokens),
        context=CONTEXT if machine.gpu else 0,
    )
    if shares == 1:
        return memory
    # After training, rank 0 gathers the whole model beside its own shard and evaluates it.
    together = model.parameters * machine.dtype_bytes + memory.weights + memory.context
    return replace(memory, buffers=memory.buffers + max(0, together - memory.total))


def estimate_reinforcement(model: Architecture, method: MethodSpec, tokens: int, response: int, machine: Machine
                           ) -> MemoryEstimate:
    """The peak memory of a PPO update on one sampled response, in bytes. PPO uses no gradient checkpointing.

    Args:
        model: the model's sizes.
        method: ReFT and its settings.
        tokens: tokens of the longest question with its response.
        response: tokens of the longest response.
        machine: the device of each process.
    """
    memory = estimate_memory(model, method, ForwardPass(tokens, tokens, 0), 0, machine)
    # Logits in the computation's type and in float32, log-probabilities, and buffers of entropy and backward pass.
    return replace(memory, loss=response * model.vocabulary * (machine.dtype_bytes + 4 * FLOAT32))


def checkpoint_bytes(model: Architecture, method: MethodSpec, machine: Machine, processes: int = 1) -> int:
    """Size of a checkpoint in bytes: trained parameters in float32, optimizer state, and ReFT's reference model."""
    trained = trained_by(method, model)
    shares = _shares(trained, processes)
    state = optimizer_bytes(trained, machine.gpu, shares) * shares
    return trained.parameters * FLOAT32 + state + FLOAT32 * trained.reference


def _shares(trained: TrainedParameters, processes: int) -> int:
    """Number of processes that shard the model. With PPO each process has the whole model."""
    return processes if trained.own and not trained.reference else 1


def _weights(model: Architecture, quantization: Quantization, trained: TrainedParameters, machine: Machine,
             shares: int) -> int:
    """Bytes of the base model. Quantization applies to the blocks' matrices, not to embeddings, head, norms and
    biases."""
    if trained.own:
        held = FLOAT32 * trained.own + (model.parameters - trained.own) * machine.dtype_bytes
        if shares > 1:
            return math.ceil(held / shares)
        # The weights are float32. Autocast stores a rounded copy of each matrix until the backward pass ends.
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
    """Bytes that FSDP gathers: parts that are whole for a time.

    Embeddings, head and last norm are whole from the beginning of a forward pass to the end of its backward pass, with
    their gradients and a float32 buffer for the reduction. Of the blocks, two are whole: the one that is computed and
    the one that is prefetched, each with a receive buffer; and the first block's gradients with their reduction.
    """
    size, block = machine.dtype_bytes, model.block_parameters
    outside = model.parameters - model.layers * block
    return outside * (2 * size + FLOAT32) + block * (5 * size + FLOAT32)


def _masked(forward_pass: ForwardPass, trained: TrainedParameters, machine: Machine) -> bool:
    """Whether attention gets a mask: for the rows of a line, or for a prefix."""
    return (forward_pass.packed and not machine.by_rows) or trained.prefix


def _mask(forward_pass: ForwardPass, machine: Machine) -> int:
    """Bytes of that mask: one for all blocks, as booleans and as numbers to add."""
    return forward_pass.tokens * forward_pass.length * (1 + machine.dtype_bytes)


def _loss(model: Architecture, forward_pass: ForwardPass, machine: Machine) -> int:
    """Bytes of the answers' hidden states with float32 gradients, and of the tiles of logits."""
    answers = forward_pass.tokens if forward_pass.answers is None else forward_pass.answers
    lines = min(answers, _TILE_TOKENS)
    tiles = lines * _TILE_WORDS * machine.dtype_bytes
    if not machine.gpu:
        # Without Triton, the softmax gradient of a tile needs seven more buffers of the same size.
        tiles += (_TILES - 1) * lines * min(model.vocabulary, _TILE_WORDS) * FLOAT32
    return answers * model.hidden * (machine.dtype_bytes + FLOAT32) + tiles


def _buffers(model: Architecture, quantization: Quantization, trained: TrainedParameters, machine: Machine,
             tokens: int) -> int:
    """Bytes of the largest temporary buffer of one layer: its dequantized weight, and what DoRA's
    norms or factors need."""
    chosen = [linear for linear in model.linears if linear.name in trained.layers]
    largest = max((linear.weights for linear in model.linears), default=0)
    dequantised = 0 if quantization is Quantization.NONE else largest * machine.dtype_bytes
    update = max((_update(linear, machine) for linear in chosen if trained.is_dense(linear)), default=0)
    if trained.magnitude and machine.gpu and machine.dtype_bytes < FLOAT32:
        # A fused layer scales its output in float32, a part at a time.
        update = max(update, FLOAT32 * min(_SCALED, tokens * max((linear.outputs for linear in chosen), default=0)))
    return dequantised + update


def _update(linear: Linear, machine: Machine) -> int:
    """Bytes of the buffers in PEFT's DoRA: factors times an identity matrix, plus the weight, and the norms of its
    rows."""
    return linear.inputs**2 * machine.dtype_bytes + 3 * linear.weights * machine.dtype_bytes
