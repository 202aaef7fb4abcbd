"""What the job may cost, and how it is run and kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import Amount, Duration


class PreflightPolicy(StrEnum):
    """Whether the job is checked on CPU before any accelerator is asked for."""

    REQUIRED = "Required"
    SKIP = "Skip"


class RerunPolicy(StrEnum):
    """Whether a result that is already published for the same spec and data is bought again."""

    IF_CHANGED = "IfChanged"
    ALWAYS = "Always"


class BudgetSpec(ApiModel):
    """Limits of money and time. When one is reached training stops, and what there is, is evaluated and published."""

    max_cost: Amount | None = None
    """Most that the job may spend on accelerators, over all attempts."""

    hourly_rate: Amount | None = None
    """Price of one accelerator hour. Left out: the catalogue's (`finetune run` on a CPU: 0)."""

    max_duration: Duration | None = None
    """Longest time that the trainer may run, over all attempts."""


class RunPolicy(ApiModel):
    """How the job is started, retried and cleaned up."""

    suspend: bool = False
    """Stop with a checkpoint, or do not start; set it back to go on."""

    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How often an attempt that ended for an unknown reason is tried again."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    """Seconds after which the pods of a finished job are deleted. Left out: they stay until the job is deleted."""

    preflight: PreflightPolicy = PreflightPolicy.REQUIRED
    """`Required` checks data, model and memory before an accelerator is asked for; `Skip` starts at once."""

    rerun: RerunPolicy = RerunPolicy.IF_CHANGED
    """`IfChanged` adopts a result that is already published for the same spec and data; `Always` trains again."""

    resume_from: Annotated[str, Field(
        max_length=105, pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?(/[a-z0-9-]{1,64})?$")] | None = None
    """Name of an earlier job of this namespace and output (`name/uid`: one of several of that name). Training goes on
    from its newest checkpoint. Its spec (but for compute, budget and runPolicy), data and base have to be the same.
    Read when the job starts.
    """
