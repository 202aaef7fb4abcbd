"""What the operator gives to a trainer: its run configuration, and limits that may change."""

from __future__ import annotations

import operator
from typing import Annotated, Self

from pydantic import Field

from finetune_api.messages.field_types import Date, Timestamp
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.api_model import ApiModel, Message, Sha256
from finetune_api.values.money import Price
from finetune_api.values.quantities import Money


class Accelerator(Message):
    """The accelerator that a run is planned for."""

    name: str
    """Its name in the catalogue, or `cpu`."""

    memory_bytes: int | None = None
    """Its memory in bytes."""

    host_memory_bytes: int | None = None
    """Host memory of one pod in bytes; None if that is not known."""

    hourly_rate: Money
    """Price of one hour of one of them."""

    currency: str = "USD"
    """Currency of the price."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, and not the processors of a machine."""
        return self.name != "cpu"

    def price(self, accelerators: int) -> Price:
        """Price of this number of them."""
        return Price(self.hourly_rate, self.currency, accelerators)


class RunConfig(ApiModel):
    """Everything that one attempt needs (`run.json`). The operator makes it once per job; every attempt gets the same.

    The trainer's image stays the same for the whole job, and the operator's does not. So each release reads what an
    earlier or a later release of the other has written.
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
    """SHA-256 digest of the part of the spec that decides the result."""

    accelerator: Accelerator
    """The accelerator that it runs on."""

    catalogue: tuple[Accelerator, ...] = ()
    """Other accelerators of the catalogue. Preflight names one if the job does not fit, and chooses one of them if the
    job's accelerator is `auto`."""

    image: str | None = None
    """The trainer image with its digest."""

    allowed_plugins: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    """Names of the reward plug-ins that the administrator allows. Not written if there are none, since a trainer of an
    earlier release rejects unknown fields."""

    date: Date | None = None
    """The day, in UTC, that chat templates use as today. The check and every attempt of a job have the same one, else
    their rows would differ. None if an earlier release wrote this, or without a cluster.
    """

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Read a configuration of any release. Unknown fields are ignored, in the spec too.

        A user's own file is read by `finetune_api.reading.loading`, which refuses them.

        Raises:
            pydantic.ValidationError: a field that this release needs, or a value that it does not understand.
        """
        return cls.model_validate_json(text, extra="ignore")


class Limits(Message):
    """Limits that may change while a trainer runs. It reads them again at every step (`limits.json`)."""

    stop_at: Timestamp | None = None
    """When to stop training."""

    max_cost: Money | None = None
    """Largest amount that the job may spend."""

    spent_before: Money | None = None
    """Amount that earlier attempts spent."""

    hourly_rate: Money | None = None
    """Price per hour of all accelerators of the job together."""

    stop: bool = False
    """Stop training now, then evaluate and publish."""
