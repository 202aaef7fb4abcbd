"""Known accelerators: the operator's default catalogue, and the accelerators that `finetune estimate` knows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class KnownAccelerator:
    """An accelerator as clouds offer it.

    Attributes:
        product: what NVIDIA's node labels call it.
        memory_gib: its memory in GiB.
        hourly_price: price of one accelerator for one hour, in USD.
    """

    product: str
    memory_gib: int
    hourly_price: Decimal

    @property
    def memory_bytes(self) -> int:
        """Its memory in bytes."""
        return self.memory_gib * 1024**3


KNOWN_ACCELERATORS = {
    "nvidia-l4": KnownAccelerator("NVIDIA-L4", 24, Decimal("1.00")),
    "nvidia-t4": KnownAccelerator("Tesla-T4", 16, Decimal("0.55")),
    "nvidia-a10g": KnownAccelerator("NVIDIA-A10G", 24, Decimal("1.25")),
    "nvidia-a100-40": KnownAccelerator("NVIDIA-A100-SXM4-40GB", 40, Decimal("3.70")),
    "nvidia-a100-80": KnownAccelerator("NVIDIA-A100-SXM4-80GB", 80, Decimal("5.10")),
    "nvidia-h100": KnownAccelerator("NVIDIA-H100-80GB-HBM3", 80, Decimal("11.00")),
}
"""The prices are rounded on-demand prices of 2026. An administrator sets their own."""

CURRENCY = "USD"
"""Currency of these prices."""

CPU_PRICE = Decimal("0.10")
"""Price of two cores with 8 GiB for one hour, in USD."""
