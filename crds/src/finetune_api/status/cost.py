"""What a job costs and what memory it needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.status.field_types import Count, Time
from finetune_api.values.api_model import Message
from finetune_api.values.money import Price
from finetune_api.values.quantities import Money


class Cost(Message):
    """What the job costs, in one currency."""

    spent: Money
    """Amount spent so far."""

    projected: Money | None = None
    """Amount expected at the end."""

    currency: Annotated[str, Field(max_length=8)] = "USD"
    """Currency of the amounts."""

    hourly_rate: Money
    """Price of one accelerator for one hour, as it was when the job started."""

    earlier: Money | None = None
    """Amount spent by attempts that `attempts` no longer lists."""

    earlier_seconds: Count | None = None
    """Seconds for which those attempts occupied their nodes."""

    used_up_at: Time | None = None
    """When the job reached a limit of its budget. The operator stops a trainer that still runs two hours later."""

    def price(self, accelerators: int) -> Price:
        """Price of this number of accelerators, as it was when the job started."""
        return Price(self.hourly_rate, self.currency, accelerators)


class Memory(Message):
    """Memory of one accelerator (or of the process, on a CPU), in bytes."""

    estimated_bytes: int | None = None
    """Peak that preflight estimates."""

    peak_bytes: int | None = None
    """Peak that the trainer measured."""

    accelerator_bytes: int | None = None
    """Memory of the accelerator."""
