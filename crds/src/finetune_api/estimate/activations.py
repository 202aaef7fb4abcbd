"""What a forward pass stores for its backward pass, in bytes per token.

Every term is a tensor that autograd saves when the trainer's own code computes a block of a Llama-like model:
`tests/trainer/test_saved_tensors.py` counts them under the autocast of a GPU. Tensors that several operations save are
stored once. Left out is what has one number per head or row of a token: less than 1 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from finetune_api.architecture import Architecture, Linear
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.spec.method import Quantization

FLOAT32 = 4

_HEAD_STEP, _WIDEST_HEAD = 8, 256
"""Sizes of heads that torch's attention kernel for rows of different lengths takes on a GPU."""


@dataclass(frozen=True)
class Machine:
    """The kind of device that trains, and how it computes.

    Attributes:
        gpu: whether it is a GPU, else a CPU.
        dtype_bytes: bytes of a number in the computation.
        by_rows: whether attention keeps the rows of a line apart without a mask; None for not known yet.
        kernels: whether Triton kernels compute norms, and without DoRA the activation of the feed-forward part; None
            for not known yet.
    """

    gpu: bool
    dtype_bytes: int
    by_rows: bool | None = None
    kernels: bool | None = None

    def computing(self, model: Architecture, native: bool, kernels: bool) -> Machine:
        """The same machine, with what the trainer chooses for a model on it where that is not known yet.

        Args:
            model: the model's sizes.
            native: whether the engine is the project's own.
            kernels: whether the job allows Triton kernels.
        """
        half = self.gpu and self.dtype_bytes < FLOAT32
        fits_kernel = half and model.head_size % _HEAD_STEP == 0 and model.head_size <= _WIDEST_HEAD
        by_rows = native and not model.softcap and (fits_kernel or not self.gpu)
        kernels = native and kernels and half and model.has_kernels
        return replace(self, by_rows=by_rows if self.by_rows is None else self.by_rows,
                       kernels=kernels if self.kernels is None else self.kernels)


@dataclass(frozen=True)
class BlockPass:
    """How blocks are computed.

    Attributes:
        model: the model's sizes.
        trained: what is trained.
        quantization: how the frozen weights are stored.
        machine: the device.
        masked: whether attention gets a mask.
        sharded: whether the model is sharded: then its weights have the type of the computation in a forward pass.
    """

    model: Architecture
    trained: TrainedParameters
    quantization: Quantization
    machine: Machine
    masked: bool = False
    sharded: bool = False

    @property
    def residual(self) -> int:
        """Bytes of a number of the residual stream: float32 where the embeddings are, or where layers give float32."""
        wide = self._promoted or (self.trained.embeddings and not self.sharded)
        return FLOAT32 if wide else self.machine.dtype_bytes

    @property
    def input_bytes(self) -> int:
        """Bytes per token of a block's input, which a checkpointed block stores."""
        return self.model.hidden * self.residual

    @property
    def block_bytes(self) -> float:
        """Bytes per token that a block stores: the mean over the blocks that the backward pass goes through."""
        trained, own = self.trained, self._block(True)
        if trained.blocks is None or not trained.depth:
            return own
        return (trained.blocks * own + (trained.depth - trained.blocks) * self._block(False)) / trained.depth

    @property
    def working_bytes(self) -> int:
        """Bytes per token of temporary gradients in one block: of the residual stream, the gate and the up projection.
        """
        return 2 * self.model.hidden * self.residual + 2 * self.model.intermediate * self._feed_forward

    @property
    def outside_bytes(self) -> int:
        """Bytes per token that the last norm stores."""
        return self._norm(self.trained.own > 0 and self.trained.embeddings > 0) if self.machine.gpu else 0

    @property
    def _promoted(self) -> bool:
        """Whether layers give float32: PEFT multiplies by float32 vectors, and rounds the product only beside weights
        that are not quantized."""
        if self.quantization is Quantization.NONE:
            return False
        dense = any(self.trained.is_dense(linear) for linear in self.model.linears if linear.source != "block")
        return dense or (self.trained.factors and self.quantization is Quantization.NF4)

    @property
    def _feed_forward(self) -> int:
        return FLOAT32 if self._promoted else self.machine.dtype_bytes

    def _norm(self, trained: bool) -> int:
        """A norm stores its input in float32, and, if its weight is trained, the normalized numbers. The kernel stores
        its input alone, as it is."""
        if self.machine.kernels:
            return self.model.hidden * self.residual
        return self.model.hidden * (FLOAT32 + (self.residual if trained else 0))

    def _block(self, has_trained: bool) -> int:
        model, trained, size = self.model, self.trained, self.machine.dtype_bytes
        norms = has_trained and trained.norms
        total = model.hidden_norms * self._norm(norms)
        if model.head_norms:
            total += (model.attention + model.key_values) * (size if self.machine.kernels else FLOAT32)
        # Queries, keys, values and the output of attention. With a mask, keys are repeated for each group of heads.
        keys = model.attention if self.masked or not self.machine.gpu else model.key_values
        total += (2 * model.attention + 2 * keys) * size
        # Gate and up projection, and the activation of the gate, which the kernel computes again.
        activation = 0 if self.machine.kernels and not trained.magnitude else 1
        total += (2 + activation) * model.intermediate * self._feed_forward
        if trained.bottleneck:
            # Two of them: the input, and the small layer before and behind its activation.
            total += 2 * (model.hidden + 2 * trained.bottleneck) * size
        read = set()
        for linear in model.linears:
            adapted = has_trained and linear.name in trained.layers
            if adapted:
                total += self._adapter(linear, keys)
            # With dropout, an adapter reads a tensor of its own.
            if (adapted and not trained.dropout and not trained.factors) or self.quantization is Quantization.INT8:
                # Of an input in float32, each layer makes its own copy.
                own_copy = size < FLOAT32 and linear.source != "attention" and (
                    (self._promoted and trained.magnitude)
                    or (norms and not self.sharded and linear.source != "product"))
                if own_copy or linear.source not in read:
                    total += self._input(linear)
                read.add(linear.source)
        return total

    def _input(self, linear: Linear) -> int:
        """Bytes of a layer's input that only the layer stores: attention stores its own output."""
        return 0 if linear.source == "attention" else linear.inputs * self.machine.dtype_bytes

    def _adapter(self, linear: Linear, keys: int) -> int:
        """What is stored beside the layer's input."""
        trained, size, gpu = self.trained, self.machine.dtype_bytes, self.machine.gpu
        if trained.factors:
            # What is multiplied by a factor in float32: the output of the layer, or its input.
            return linear.inputs * FLOAT32 if linear.source == "product" else linear.outputs * self._feed_forward
        total = trained.rank * size
        if trained.dropout:
            # The dropped input, and the mask: booleans on a GPU.
            total += linear.inputs * (size + (1 if gpu else size))
        if trained.is_dense(linear):
            product = size if linear.source == "attention" else self._feed_forward
            return total + linear.outputs * (size + product)
        return total + self._output(linear, keys) * size

    def _output(self, linear: Linear, keys: int) -> int:
        """Numbers of a layer's output that are stored for its own sake, and not by the operation that follows."""
        if not self.trained.magnitude:
            return 0
        # Beside int8, and with dropout, the sum that is stored is not the layer's output itself.
        sums = (self.quantization is Quantization.INT8) + self.trained.dropout
        if sums or linear.source == "middle":
            return sums * linear.outputs
        # Attention stores the values, unless it repeats them for each group of heads.
        values = self.model.key_values if keys == self.model.key_values else 0
        return linear.outputs - (values if linear.name in ("v_proj", "qkv_proj") else 0)


@dataclass(frozen=True)
class StoredActivations:
    """What the blocks store at once, in bytes.

    Attributes:
        blocks: how blocks are computed.
        tokens: tokens of the forward pass.
        checkpointed: checkpointed layers, from the first on.
    """

    blocks: BlockPass
    tokens: int
    checkpointed: int

    @property
    def transient(self) -> int:
        """What comes on top in the backward pass: gradients inside of the last block, and, if it is checkpointed, its
        activations."""
        return self._working + (0 if self._kept else self._block)

    @property
    def at_peak(self) -> int:
        """Bytes at the begin of the backward pass. The layers that keep their activations are freed first."""
        return self.in_forward_pass + self.transient

    def at_peak_beside(self, gradients: int, first: int) -> int:
        """The same, less the gradients that take the memory of freed activations.

        Args:
            gradients: bytes of all gradients.
            first: bytes of those that exist before any activation is freed.
        """
        recomputing = self._again * self._input + self._block + self._working - gradients * self._again // self._depth
        # The first block's activations are freed last, after all gradients but its own exist.
        last = self._block + self._working - (gradients - first) // self._depth
        return max(last, self.at_peak - gradients + first, recomputing if self._again else 0, 0)

    @property
    def in_forward_pass(self) -> int:
        """Bytes at the end of the forward pass."""
        outside = math.ceil(self.tokens * self.blocks.outside_bytes)
        return self._kept * self._block + self._again * self._input + outside

    @property
    def _depth(self) -> int:
        return max(1, self.blocks.trained.depth)

    @property
    def _again(self) -> int:
        """Checkpointed layers that the backward pass goes through."""
        return max(0, self.checkpointed - (self.blocks.model.layers - self.blocks.trained.depth))

    @property
    def _kept(self) -> int:
        return self.blocks.trained.depth - self._again

    @property
    def _block(self) -> int:
        return math.ceil(self.tokens * self.blocks.block_bytes)

    @property
    def _input(self) -> int:
        return self.tokens * self.blocks.input_bytes

    @property
    def _working(self) -> int:
        return self.tokens * self.blocks.working_bytes
