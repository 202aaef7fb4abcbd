"""Hours and cost of training, estimated from tokens: precise enough to tell an hour from a day.

Per token and weight, the forward pass costs two operations, the gradient of its input two, the gradient of a trained
weight two, and gradient checkpointing two more (Kaplan et al., 2020, arXiv:2001.08361). An accelerator does a share of
its peak operations; the shares of GPUs are assumed, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from finetune_api.architecture import Architecture
from finetune_api.estimate.trained import trained_by
from finetune_api.spec.method import MethodSpec, Quantization
from finetune_api.values.money import Price, cost_of, estimated_amount

_TERA = 1e12
PEAKS = {
    "t4": 8.1, "l4": 121.0, "l40": 181.0, "a10": 70.0, "v100": 15.7, "a100": 312.0, "h100": 989.0, "h200": 989.0,
}
"""Dense bfloat16 operations a second, in 10^12, by a part of the accelerator's name, from the vendor's data sheets; of
the T4 and the V100, which have no bfloat16, those of float32."""

SHARES = ((2e9, 0.20), (1e10, 0.35), (float("inf"), 0.40))
"""The share of the peak that training reaches, by the model's size in parameters: assumed."""

CPU_CORE = 0.06
"""The same for one core of a CPU in float32: 112 tokens a second of LoRA on SmolLM2-135M, as measured
(benchmarks/README.md), are 4 × 135e6 × 112 operations."""

UNKNOWN_PEAK = 121.0
_DEQUANTISING = 1.25
"""Time with nf4 and int8 relative to bfloat16: assumed."""


@dataclass(frozen=True)
class TrainingDuration:
    """Time and cost of training, without loading, evaluation and upload.

    Attributes:
        tokens: tokens to train on, over all epochs.
        tokens_per_second: speed of all accelerators together.
        hours: hours of training.
        cost: hours × accelerators × price.
    """

    tokens: int
    tokens_per_second: float
    hours: float
    cost: Decimal


def estimate_duration(tokens: int, operations_per_token: float, operations_per_second: float, price: Price
                      ) -> TrainingDuration:
    """How long training takes and what it costs.

    Args:
        tokens: tokens to train on, over all epochs.
        operations_per_token: operations that one token costs.
        operations_per_second: operations that one accelerator does.
        price: price and number of the accelerators.
    """
    rate = price.accelerators * operations_per_second / operations_per_token
    hours = tokens / rate / 3600
    return TrainingDuration(tokens, rate, hours, estimated_amount(cost_of(timedelta(hours=hours), price)))


def left_out(samples: bool) -> str:
    """What an estimated duration leaves out, in words.

    Args:
        samples: whether the method trains on responses that the model samples, too.
    """
    sampling = "the responses that the method samples, " if samples else ""
    return f"without {sampling}loading, evaluation and upload"


def operations_per_token(model: Architecture, method: MethodSpec, checkpointed_layers: int) -> float:
    """Operations that training does for one token; those on quantized weights count for more.

    Args:
        model: the model's sizes.
        method: the method and its quantization.
        checkpointed_layers: the layers, from the first on, whose activations the backward pass computes again.
    """
    trained = trained_by(method, model)
    # Below the lowest trained layer nothing is computed again.
    again = max(0, checkpointed_layers - (model.layers - trained.depth)) / model.layers
    passes = 2 + (1 if trained.own else 0) + again
    slower = 1.0 if method.quantization is Quantization.NONE else _DEQUANTISING
    return 2.0 * passes * model.parameters * slower


def operations_per_second(model: Architecture, accelerator: str, cores: float = 2.0) -> float:
    """Operations that one accelerator does in a second of training.

    Args:
        model: the model's sizes: larger ones use more of an accelerator.
        accelerator: its name in the catalogue, or `cpu`.
        cores: of a CPU trainer.
    """
    name = accelerator.lower()
    if name == "cpu":
        return cores * CPU_CORE * _TERA
    found = [peak for part, peak in PEAKS.items() if part in name]
    share = next(share for size, share in SHARES if model.parameters <= size)
    return max(found, default=UNKNOWN_PEAK) * share * _TERA
