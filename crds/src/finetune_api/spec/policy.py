"""What the job may cost, and how it is started, retried and deleted."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import Amount, Duration


class PreflightPolicy(StrEnum):
    """Whether a check on a CPU runs before the job requests an accelerator."""

    REQUIRED = "Required"
    SKIP = "Skip"


class RerunPolicy(StrEnum):
    """Whether to train again if a result of the same spec and data is published already."""

    IF_CHANGED = "IfChanged"
    ALWAYS = "Always"


class MissingCheckpoint(StrEnum):
    """What a job does whose `resumeFrom` finds no checkpoint that fits."""

    FAIL = "Fail"
    TRAIN_FROM_START = "TrainFromStart"


class BudgetSpec(ApiModel):
    """Limits of money and time. At a limit training stops; what was trained is evaluated and published."""

    max_cost: Amount | None = None
    """Largest amount that the job may spend on accelerators, over all attempts, in the catalogue's currency. Default:
    without limit."""

    hourly_rate: Amount | None = None
    """Price of one accelerator for one hour, in the catalogue's currency. Default: the catalogue's (`finetune run` on a
    CPU: 0)."""

    max_duration: Duration | None = None
    """Longest time that the trainer may run, over all attempts. Default: without limit."""


class RunPolicy(ApiModel):
    """How the job is started, retried and deleted."""

    suspend: bool = False
    """Write a checkpoint and stop, or do not start. Set it to false to resume."""

    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How often the operator retries an attempt that ended for an unknown reason."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    """Seconds after which the operator deletes the pods of a finished job. Default: they stay until the job is
    deleted."""

    preflight: PreflightPolicy = PreflightPolicy.REQUIRED
    """`Required` checks data, model and memory before the job requests an accelerator. `Skip` starts at once."""

    rerun: RerunPolicy = RerunPolicy.IF_CHANGED
    """`IfChanged` adopts a published result of the same spec and data. `Always` trains again."""

    resume_from: Annotated[str, Field(
        max_length=105, pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?(/[a-z0-9-]{1,64})?$")] | None = None
    """Name of an earlier job in this namespace and output, or `name/uid` if several have that name. Training resumes
    from its newest checkpoint. Its spec (except compute, budget and runPolicy), data and base model must be the same.
    The operator reads this when the job starts.
    """

    on_missing_checkpoint: MissingCheckpoint = MissingCheckpoint.FAIL
    """If no checkpoint of `resumeFrom` fits: `Fail` ends the job before training (`MissingInput`). `TrainFromStart`
    trains the whole run, and the result says so. The operator reads this when the job starts."""

    stop_after: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of all steps after which training stops, such as 0.25. The schedule of the learning rate stays that of the
    whole run. What was trained is evaluated and published (`StoppedEarly`), and `evaluation.gate` is not judged. A job
    with the same spec and `resumeFrom` trains the rest. With ReFT the steps of PPO count too. Default: all steps are
    trained. The operator reads this when the job starts."""
