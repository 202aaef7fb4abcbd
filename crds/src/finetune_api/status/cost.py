"""What a job costs and what memory it needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Count, Time
from finetune_api.values.api_model import Message
from finetune_api.values.money import Price
from finetune_api.values.quantities import Money


class Cost(Message):
    """What the job costs."""

    spent: Money
    """Spent so far."""

    projected: Money | None = None
    """Expected at the end."""

    currency: Annotated[str, Field(max_length=8)] = "USD"
    """Currency of the amounts."""

    hourly_rate: Money
    """Price of one accelerator hour, as it was when the job started."""

    earlier: Money | None = None
    """Spent by attempts that are no longer listed."""

    earlier_seconds: Count | None = None
    """How long these held their nodes, in seconds."""

    used_up_at: Time | None = None
    """Since when a limit of the budget is reached; a trainer that runs on two hours later is stopped."""

    def price(self, accelerators: int) -> Price:
        """The price of so many accelerators, as it was when the job started."""
        return Price(self.hourly_rate, self.currency, accelerators)


class Memory(Message):
    """Memory of one accelerator (or of the process, on a CPU), in bytes."""

    estimated_bytes: int | None = None
    """What preflight expects at the peak."""

    peak_bytes: int | None = None
    """The peak that was seen."""

    accelerator_bytes: int | None = None
    """What the accelerator has."""
