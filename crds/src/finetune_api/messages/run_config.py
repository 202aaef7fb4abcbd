"""What the operator gives to a trainer: its run configuration, and limits that may change."""

from __future__ import annotations

import operator
from typing import Annotated, Self

from pydantic import Field

from finetune_api.messages.field_types import Date, Time
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.api_model import ApiModel, Message, Sha256
from finetune_api.values.money import Price
from finetune_api.values.quantities import Money


class Accelerator(Message):
    """The accelerator that the run is planned for."""

    name: str
    """Its name in the catalogue, or `cpu`."""

    memory_bytes: int | None = None
    """Its memory in bytes."""

    host_memory_bytes: int | None = None
    """What a pod of the run has of the host's memory, in bytes; None where that is not known."""

    hourly_rate: Money
    """Price of one hour of one of them."""

    currency: str = "USD"
    """Currency of the price."""

    def price(self, accelerators: int) -> Price:
        """The price of so many of them."""
        return Price(self.hourly_rate, self.currency, accelerators)


class RunConfig(ApiModel):
    """Everything that one attempt needs (`run.json`): made once for a job, and the same for each of its attempts.

    The image of a job stays what it was at its start, and the operator's does not: so the one reads what a later, or an
    earlier, release of the other has written.
    """

    namespace: str
    """Namespace of the job."""

    name: str
    """Name of the job."""

    uid: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
    """Identity of the job: a re-created job has another one."""

    attempt: Annotated[int, Field(ge=1)]
    """Number of the attempt."""

    spec: FineTuneJobSpec
    """The job's spec with its defaults resolved."""

    spec_hash: Sha256
    """Digest of what decides the result."""

    accelerator: Accelerator
    """What it runs on."""

    catalogue: tuple[Accelerator, ...] = ()
    """What else there is: named by preflight where the job doesn't fit."""

    image: str | None = None
    """The trainer image with its digest."""

    allowed_plugins: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    """Reward plug-ins that the administrator allows, by their names. Not written where there are none: a trainer of an
    earlier release refuses what it does not know."""

    date: Date | None = None
    """The day, in UTC, that chat templates take for today. The check and every attempt of a job have the same one: its
    rows would differ otherwise. None where an earlier release wrote this, or there is no cluster.
    """

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Read a configuration of any release: fields that this one does not know are passed over, in the spec too.

        A user's own file is read by `finetune_api.reading.loading`, which refuses them.

        Raises:
            pydantic.ValidationError: a field that this release needs, or a value that it does not understand.
        """
        return cls.model_validate_json(text, extra="ignore")


class Limits(Message):
    """What may change while a trainer runs: read again at every step (`limits.json`)."""

    stop_at: Time | None = None
    """When to stop training."""

    max_cost: Money | None = None
    """Most that the job may spend."""

    spent_before: Money | None = None
    """What earlier attempts spent."""

    hourly_rate: Money | None = None
    """Price per hour of all accelerators of the job together."""

    stop: bool = False
    """Stop training now, evaluate and publish."""
