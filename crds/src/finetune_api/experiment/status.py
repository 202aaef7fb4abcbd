"""The status of a `FineTuneExperiment`: of the operator, and of `finetune run` in `experiment.json`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.experiment.spec import MOST_RUNS
from finetune_api.status.conditions import Condition, ConditionStatus, ConditionType
from finetune_api.status.field_types import Count, Text, Time
from finetune_api.values.api_model import Message
from finetune_api.values.quantities import Money

MOST_ROWS = 2 * MOST_RUNS
"""Most jobs that a status lists."""


class RunPhase(StrEnum):
    """Phase of one job of an experiment."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class ExperimentPhase(StrEnum):
    """Phase of an experiment."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


ENDED_PHASES = (ExperimentPhase.SUCCEEDED, ExperimentPhase.FAILED)
"""Phases in which an experiment starts no job. An edit of its spec may lead to another phase."""


class ExperimentReason(StrEnum):
    """Why an experiment, or one of its jobs, is where it is."""

    NOT_LOOKED_AT = "NotLookedAt"
    """No operator has processed the experiment yet."""

    VALID = "Valid"
    """Every variant is a job that can run."""

    INVALID_VARIANT = "InvalidVariant"
    """A variant is no job that can run. The message names variant, field and cure."""

    RUNNING = "Running"
    """Jobs run, or wait for their turn."""

    SUSPENDED = "Suspended"
    """`spec.suspend` is true."""

    REPORTING = "Reporting"
    """Every job has ended, and a pod on a CPU compares the results row by row and writes the report."""

    FINISHED = "Finished"
    """Every job has ended, and at least one has a result."""

    NOTHING_SUCCEEDED = "NothingSucceeded"
    """Every job has ended, and none has a result."""

    BUDGET_SPENT = "BudgetSpent"
    """The job is not started: what is left of `budget.maxCost` does not pay it."""

    HALVED = "Halved"
    """The job is not started: its variant was not among the best of the rung before."""

    WAITING = "Waiting"
    """The job waits for its turn, for money, or for the rung before."""

    PREFLIGHT = "Preflight"
    """Checks on a CPU look at the data and the model of every job, before the first one requests an accelerator."""

    ESTIMATE_ABOVE_BUDGET = "EstimateAboveBudget"
    """Nothing is started: all jobs together are estimated to cost more than `budget.maxCost`."""

    REMOVED = "Removed"
    """The job is not in the experiment any more."""

    CANNOT_START = "CannotStart"
    """The apiserver refuses a job, or what its report needs. The message quotes it."""

    INTERNAL_ERROR = "InternalError"
    """The operator cannot decide about the experiment. Running jobs go on, each within its own budget."""


class ExperimentRun(Message):
    """One job of the experiment."""

    variant: Annotated[str, Field(max_length=64)]
    """Name of the variant."""

    settings: Annotated[str, Field(max_length=512)] | None = None
    """The values of the sweep."""

    job: Annotated[str, Field(max_length=40)]
    """Name of the FineTuneJob. It follows from the experiment, the variant, and everything that decides the result."""

    uid: Annotated[str, Field(max_length=64)] | None = None
    """uid of the FineTuneJob; a job that is deleted and created again has another one."""

    seed: Count
    """`training.seed` of the job."""

    rung: float | None = None
    """The share of the steps after which the job stops; absent if it trains all of them."""

    phase: RunPhase
    """Phase of the job."""

    reason: Annotated[str, Field(max_length=64)]
    """Why it is there, in one word."""

    message: Annotated[str, Field(max_length=1024)] | None = None
    """How it ended, or what it waits for."""

    before: float | None = None
    """The metric before training; for a metric of fields, the mean over the fields."""

    after: float | None = None
    """The metric after training."""

    cost: Money | None = None
    """Amount spent."""

    max_cost: Money | None = None
    """Largest amount that it may spend: its share of the experiment's budget."""

    hours: float | None = None
    """Hours that trainers have run."""

    tokens_per_second: float | None = None
    """Tokens per second in training."""

    peak_bytes: int | None = None
    """Peak memory of one accelerator (or of the process, on a CPU), in bytes."""

    adapter: Annotated[str, Field(max_length=2048)] | None = None
    """Location of what it published."""


class RankedVariant(Message):
    """A variant with a result, in the order of the ranking."""

    rank: Annotated[int, Field(ge=1)]
    """Place, from 1."""

    variant: Annotated[str, Field(max_length=64)]
    """Name of the variant."""

    score: float
    """The metric after training; with repeats their mean."""

    low: float | None = None
    """Lower end of the 95 % interval of the score, with other held-out rows."""

    high: float | None = None
    """Upper end of that interval."""

    spread: float | None = None
    """Standard deviation of the score over the repeats."""

    rows: Count = 0
    """Number of held-out rows that the intervals are made from."""

    cost: Money
    """What all jobs of the variant cost."""

    verdict: Annotated[str, Field(max_length=512)]
    """How it compares with the best one."""


class ExperimentCost(Message):
    """What the experiment costs, in one currency."""

    spent: Money
    """Amount spent so far, over all jobs, removed ones included."""

    currency: Annotated[str, Field(max_length=8)] = "USD"
    """Currency of the amounts."""

    removed: Money | None = None
    """The part of `spent` of jobs that `runs` does not list any more, and of earlier tries."""

    saved: Money | None = None
    """What the variants that halving gave up would have cost beyond that, at the price of their own short run."""


class ReportRecord(Message):
    """The pods that compare the results row by row and write the report."""

    results: Annotated[str, Field(max_length=64)]
    """Digest of the results that it compares, and of how these are ranked. Other results need another report."""

    failures: Count = 0
    """How many pods have failed."""

    failed_at: Time | None = None
    """When the last one failed, while another one follows."""

    outcome: Annotated[str, Field(max_length=64)] | None = None
    """`Succeeded`, or why there is no report, in one word; absent while it is being written."""

    message: Text | None = None
    """What the report lacks, or why there is none."""


class FineTuneExperimentStatus(Message):
    """What was observed."""

    phase: ExperimentPhase | None = None
    """Phase of the experiment."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra={
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})] = ()
    """Conditions of the experiment, one per type, each with a reason and a message."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""

    done: Annotated[str, Field(max_length=16)] | None = None
    """How many jobs have ended or are skipped, of how many: `2/4`."""

    runs: Annotated[tuple[ExperimentRun, ...], Field(max_length=MOST_ROWS)] = ()
    """The jobs, in the order in which they run; after them jobs that still exist and are not in the spec any more."""

    metric: Annotated[str, Field(max_length=64)] | None = None
    """The metric of the scores in `runs` and `ranking`: `rankBy.metric` when they were written."""

    ranking: Annotated[tuple[RankedVariant, ...], Field(max_length=MOST_RUNS)] = ()
    """The variants with a result, the best score first."""

    winner: Annotated[str, Field(max_length=64)] | None = None
    """The variant that won; absent while jobs run, and where none clearly did."""

    conclusion: Text | None = None
    """Who won and why, or why nobody did, in one or two sentences."""

    cost: ExperimentCost | None = None
    """Cost of the experiment."""

    report: Annotated[str, Field(max_length=2048)] | None = None
    """Location of the report."""

    reporting: ReportRecord | None = None
    """How far the report is. `finetune run` writes the report itself."""

    start_time: Time | None = None
    """When the first job was started."""

    completion_time: Time | None = None
    """When the experiment finished."""


def _unseen(kind: ConditionType, holds: ConditionStatus) -> dict[str, Any]:
    return Condition(type=kind, status=holds, reason=ExperimentReason.NOT_LOOKED_AT,
                     message="no operator has processed the experiment yet: check that one runs, serves this "
                             "namespace, and knows experiments",
                     observed_generation=0, last_transition_time=datetime.fromtimestamp(0, UTC)).model_dump(mode="json")


UNSEEN_EXPERIMENT: dict[str, Any] = {
    "phase": ExperimentPhase.PENDING.value,
    "conditions": [_unseen(ConditionType.PROGRESSING, ConditionStatus.UNKNOWN),
                   _unseen(ConditionType.RECONCILING, ConditionStatus.TRUE)],
}
"""What the apiserver shows for an experiment without a status."""
