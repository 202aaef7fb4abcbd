"""Where a training step's time goes on a GPU, reckoned from operations and bytes: a model, not a measurement.

    python benchmarks/step_model.py                       # Mistral-7B, QLoRA, on an L4
    python benchmarks/step_model.py --teraflops 400 --gigabytes 3000

Each kernel takes as long as the slower of two things: its operations by the rate of a large bfloat16 matrix product, or
the bytes that it reads and writes by the rate of a large copy (the roofline of Williams et al., 2009,
doi:10.1145/1498765.1498785). `make gpu-check` measures both rates, and the steps themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_api.architecture import Architecture, read_architecture

MISTRAL_7B = {
    "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "tie_word_embeddings": False,
}
BF16 = 2
NF4 = 0.53
"""Bytes of a weight, its scales included."""
ATTENTION_SHARE = 0.5
"""Assumed: the share of the matrix product's rate that an attention kernel reaches."""


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        flops: operations a second of a large bfloat16 matrix product.
        bandwidth: bytes a second of a large copy, read and written together.
    """

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Rows:
    """The rows of a step.

    Attributes:
        count: rows of a step.
        mean: tokens of a row.
        seen: mean over the tokens of their row's length: Σ length² / Σ length.
        answers: share of the tokens that are answers.
    """

    count: int = 16
    mean: float = 1190.0
    seen: float = 1420.0
    answers: float = 0.027


@dataclass(frozen=True)
class Design:
    """How a step is computed.

    Attributes:
        name: for the table.
        rows: rows of a forward pass.
        recomputed: layers whose activations are computed again in the backward pass.
        line: rows of a line, which a mask separates; None where attention goes row by row.
        padding: share of the slots that hold no token.
        fused_adapter: whether the adapter's product is added into that of the base.
        fused_kernels: whether norms, rotary positions and SwiGLU are one kernel each.
        fused_optimizer: whether the optimizer is one kernel; otherwise it synchronises for each parameter.
    """

    name: str
    rows: int = 8
    recomputed: int = 32
    line: int | None = 2
    padding: float = 0.03
    fused_adapter: bool = False
    fused_kernels: bool = False
    fused_optimizer: bool = False


BEFORE = Design("before")
DESIGNS = (
    BEFORE,
    varlen := replace(BEFORE, name="+ attention by rows", line=None, padding=0.0),
    fused := replace(varlen, name="+ fused LoRA", fused_adapter=True),
    kernels := replace(fused, name="+ Liger kernels", fused_kernels=True),
    optimizer := replace(kernels, name="+ fused AdamW", fused_optimizer=True),
    replace(optimizer, name="+ activations kept", rows=2, recomputed=0),
)


@dataclass(frozen=True)
class Part:
    """The milliseconds that a part of the work takes for a thousand tokens."""

    name: str
    milliseconds: float


def step_parts(model: Architecture, design: Design, rows: Rows, card: Card, rank: int = 8) -> list[Part]:
    """Milliseconds for a thousand tokens of rows, by part."""
    passes = _Passes(forward=1 + design.recomputed / model.layers, tokens=design.rows * rows.mean)
    seconds: dict[str, float] = {}
    for name, value in _parts(model, design, rows, card, rank, passes):
        seconds[name] = seconds.get(name, 0.0) + value
    slots = 1 / (1 - design.padding)
    return [Part(name, 1e6 * value * (1.0 if name == "optimizer" else slots)) for name, value in seconds.items()]


@dataclass(frozen=True)
class _Passes:
    """Forward passes through a block, the recomputed ones included, and the tokens of one."""

    forward: float
    tokens: float


def _parts(model: Architecture, design: Design, rows: Rows, card: Card, rank: int, passes: _Passes
           ) -> Iterator[tuple[str, float]]:
    """Seconds for one token."""
    blocks, forward = model.layers, passes.forward
    weights = sum(linear.weights for linear in model.linears)
    yield "base products", blocks * (forward + 1) * 2 * weights / card.flops
    yield "dequantising nf4", blocks * (forward + 1) * weights * (NF4 + BF16) / passes.tokens / card.bandwidth
    yield "attention", blocks * _attention(model, design, rows, card, forward)
    yield "adapter", blocks * sum(_adapter(linear.inputs, linear.outputs, design.fused_adapter, forward)
                                  for linear in model.linears) / card.bandwidth
    yield "norms, positions, SwiGLU", blocks * _elementwise(model, design.fused_kernels, forward) / card.bandwidth
    # Two sums in each direction, each of two tensors.
    yield "residual sums", blocks * (forward + 1) * 2 * model.hidden * 3 * BF16 / card.bandwidth
    yield "head and loss", rows.answers * 3 * 2 * model.hidden * model.vocabulary / card.flops
    yield "optimizer", _optimizer(model, design, card, rank) / (rows.count * rows.mean)


def _attention(model: Architecture, design: Design, rows: Rows, card: Card, forward: float) -> float:
    """Seconds of attention in one block for one token: the backward pass costs two and a half forward passes."""
    # With a mask each token is multiplied with all of its line, else with half of its row on average.
    keys = rows.mean * design.line if design.line else rows.seen / 2
    operations = 4 * model.attention * keys * (forward + 2.5)
    # With a mask, keys and values are repeated for each group of heads.
    repeated = 2 * 2 * model.attention * BF16 * (forward + 1) if design.line else 0
    return operations / (ATTENTION_SHARE * card.flops) + repeated / card.bandwidth


def _adapter(inputs: int, outputs: int, fused: bool, forward: float) -> float:
    """Bytes of one layer's low-rank part for one token."""
    if fused:
        # A reads x; B's product is added into the output. Back: both factors read, and the input's gradient added.
        return BF16 * (forward * (inputs + 2 * outputs) + 2 * outputs + inputs + 2 * inputs)
    # Beside that the output is copied, and B's output scaled and added; back: scaled, and x gets a second gradient.
    return BF16 * (forward * (inputs + 8 * outputs) + 4 * outputs + 5 * inputs)


def _elementwise(model: Architecture, fused: bool, forward: float) -> float:
    """Bytes of norms, rotary positions and the gated activation in one block for one token."""
    turned = model.attention + model.key_values
    if fused:
        return BF16 * (forward * (2 * 2 * model.hidden + 2 * turned + 3 * model.intermediate)
                       + 2 * 3 * model.hidden + 2 * turned + 5 * model.intermediate)
    # torch's norm goes through float32 in six kernels, of which the largest read and write 8 bytes each.
    return (forward * (2 * 40 * model.hidden + 20 * turned + 10 * model.intermediate)
            + 2 * 58 * model.hidden + 24 * turned + 18 * model.intermediate)


def _optimizer(model: Architecture, design: Design, card: Card, rank: int) -> float:
    """Seconds of a step's AdamW over the adapter."""
    trained = model.layers * sum(rank * (linear.inputs + linear.outputs) for linear in model.linears)
    if design.fused_optimizer:
        return trained * 7 * 4 / card.bandwidth
    # Paged 8-bit: a kernel and a synchronisation for each tensor, assumed 0.1 ms.
    return trained * (2 * 4 + 2 + 4 + 2) / card.bandwidth + 1e-4 * 2 * model.layers * len(model.linears)


def main() -> None:
    """Print one table: parts by design."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teraflops", type=float, default=58.0, help="of a large bfloat16 matrix product (an L4: 58)")
    parser.add_argument("--gigabytes", type=float, default=260.0, help="a second, of a large copy (an L4: 260)")
    asked = parser.parse_args()
    card, model = Card(asked.teraflops * 1e12, asked.gigabytes * 1e9), read_architecture(MISTRAL_7B)
    columns = [(design, step_parts(model, design, Rows(), card)) for design in DESIGNS]
    print("| ms for 1,000 tokens |", " | ".join(design.name for design, _ in columns), "|")
    print("|---|" + "---|" * len(columns))
    totals = [sum(part.milliseconds for part in parts) for _, parts in columns]
    for index, part in enumerate(columns[0][1]):
        cells = [f"{parts[index].milliseconds:.0f} ({parts[index].milliseconds / total:.0%})"
                 for (_, parts), total in zip(columns, totals, strict=True)]
        print(f"| {part.name} |", " | ".join(cells), "|")
    print("| together |", " | ".join(f"{total:.0f}" for total in totals), "|")
    print("| tokens/s |", " | ".join(f"{1e6 / total:.0f}" for total in totals), "|")
    print("| speed |", " | ".join(f"{totals[0] / total:.2f}" for total in totals), "|")


if __name__ == "__main__":
    main()
