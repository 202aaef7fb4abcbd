"""What time on accelerators costs: the one calculation of operator, trainer and estimates, with its rounding."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

_SMALLEST = Decimal("0.0001")
_CENT = Decimal("0.01")
_LARGEST = Decimal(10**18)
"""Of any sum, so that it keeps its four decimals."""
_MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True)
class Price:
    """What a job's accelerators cost, in one currency.

    Attributes:
        per_accelerator_hour: price of one accelerator for one hour.
        currency: of every amount that follows from the price.
        accelerators: how many the job holds.
    """

    per_accelerator_hour: Decimal
    currency: str
    accelerators: int = 1

    @property
    def per_hour(self) -> Decimal:
        """Price of all accelerators of the job together for one hour."""
        return self.per_accelerator_hour * self.accelerators

    def in_words(self, amount: Decimal) -> str:
        """An amount with its currency: `1.25 EUR`."""
        return f"{amount:f} {self.currency}"


def cost_of(duration: timedelta, price: Price) -> Decimal:
    """What a duration costs on all accelerators of the job, rounded as `rounded_amount` does."""
    microseconds = duration // timedelta(microseconds=1)
    return rounded_amount(price.per_hour * microseconds / _MICROSECONDS_PER_HOUR)


def rounded_amount(amount: Decimal) -> Decimal:
    """An amount with four decimals, half to even; at most 10^18."""
    return min(amount, _LARGEST).quantize(_SMALLEST)


def estimated_amount(amount: Decimal) -> Decimal:
    """An amount that is only an estimate, with two decimals; below 1 with four, since many of them are added up."""
    return min(amount, _LARGEST).quantize(_CENT if amount >= 1 else _SMALLEST)
