"""What the operator reports of a job, in terms that `kubectl describe` shows."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from finetune_api.base import Message, Sha256
from finetune_api.money import Price
from finetune_api.nesting import leaves
from finetune_api.quantities import Money
from finetune_api.reasons import Reason
from finetune_api.spec.evaluation import METRICS_OF_FIELDS, Metric

_NUMBER = {"type": "number"}
_DEEPEST_SCORES = 8


def _bounded(scores: dict[str, Any]) -> dict[str, Any]:
    for _ in leaves(scores, _DEEPEST_SCORES):
        pass
    return scores


Scores = Annotated[
    dict[str, Any],
    AfterValidator(_bounded),
    WithJsonSchema({"type": "object", "properties": {
        str(metric): {"type": "object", "additionalProperties": _NUMBER, "description": f"`{metric}` of each field."}
        if metric in METRICS_OF_FIELDS else {**_NUMBER, "description": f"`{metric}`."}
        for metric in Metric}}),
]
"""Scores by metric; those of fields by field. Readers take what they do not know, but nothing deep."""

LAST_NUMBER = 999_999_999
"""Of attempts."""

Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]
"""A whole number that is not negative. Readers take any: what an earlier release wrote must stay readable."""

Percent = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 100})]


def usable_time(time: datetime) -> datetime:
    """A time that can be reckoned with: one without a zone, which the apiserver takes too, is in UTC.

    Raises:
        ValueError: it is so early or so late that sums with it have no date.
    """
    if not 1900 < time.year < 2200:
        raise ValueError("write a time of the years 1901 to 2199")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


Time = Annotated[datetime, Field(strict=False), AfterValidator(usable_time)]


class Phase(StrEnum):
    """Where a job is; derived from its conditions."""

    PENDING = "Pending"
    PREFLIGHT = "Preflight"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    EVALUATING = "Evaluating"
    UPLOADING = "Uploading"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """What conditions tell of; Reconciling and Stalled are kstatus' words."""

    VALIDATED = "Validated"
    ADMITTED = "Admitted"
    PROGRESSING = "Progressing"
    FINISHED = "Finished"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Message):
    """A Kubernetes condition."""

    type: ConditionType
    """What it tells of."""

    status: ConditionStatus
    """Whether it holds."""

    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """One word for machines."""

    message: Text
    """A sentence for people: what happened and what to do."""

    observed_generation: int
    """The generation of the spec that it speaks of."""

    last_transition_time: Time
    """When its status changed last."""


class Rollouts(Message):
    """What the last step of reinforced fine-tuning saw."""

    reward: float
    """Mean reward of the sampled responses."""

    accuracy: float
    """Share of them with a right answer."""

    kl: float
    """Mean distance from the warm-up's model, in nats per response, as sampled."""

    clip_fraction: float
    """Share of tokens whose change was clipped."""

    explained_variance: float
    """How much of the variance of returns the predicted values explain: at most 1."""

    entropy: float
    """Mean entropy of the policy at a sampled token, in nats."""

    response_tokens: float
    """Mean length of a response in tokens."""

    rollout_seconds: float
    """Time to sample and judge the responses."""

    update_seconds: float
    """Time to learn from them."""


class Progress(Message):
    """How far the training is."""

    step: Count
    """Optimizer steps done."""

    total_steps: Count
    """Optimizer steps to do."""

    epoch: float | None = None
    """Passes over the data done."""

    percent: Percent
    """Share of the steps done, 0 to 100."""

    loss: float | None = None
    """Training loss of the last step, in nats per answer token."""

    learning_rate: float | None = None
    """Learning rate of the last step."""

    tokens_per_second: float | None = None
    """Tokens of rows (padding left out) trained on per second."""

    rollouts: Rollouts | None = None
    """What was sampled and what it was worth (ReFT)."""

    estimated_completion_time: Time | None = None
    """When training should be done."""


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


class Retries(Message):
    """How often the trainer was started again; counted anew after each newer checkpoint."""

    counted: Count = 0
    """After an ending for an unknown reason; `runPolicy.backoffLimit` is the most."""

    without_progress: Count = 0
    """Free retries in a row (a preemption, a drained node) that brought no newer checkpoint; ten is the most."""

    unstarted: int = 0
    """Attempts in a row that a node refused, or that could not start where an earlier one could; the wait for the next
    grows with them."""


class PreflightStatus(Message):
    """What the check before the start found, and how often it was tried."""

    generation: int
    """The generation of the spec that was checked."""

    failures: int = 0
    """Checks of this generation that ended without an answer; `runPolicy.backoffLimit` is the most."""

    failed_at: Time | None = None
    """When the last of these ended."""

    node: Annotated[str, Field(max_length=253)] | None = None
    """The node that refused the last of these, if one did; the next goes elsewhere where it can."""

    refused: Annotated[str, Field(max_length=64)] | None = None
    """Why the spec can't work, in one word; the condition Validated has the sentence."""

    message: Text | None = None
    """The sentence of a refusal."""

    model_revision: Annotated[str, Field(max_length=200)] | None = None
    """The commit of the hub's model that every attempt trains."""

    data_hash: Sha256 | None = None
    """Digest of the rows as they were seen."""

    hours: float | None = None
    """Hours that training is expected to take."""

    checkpoint_bytes: int | None = None
    """Expected size of a checkpoint; a pod that is asked to stop gets the time to upload one."""


class Memory(Message):
    """Memory of one accelerator (or of the process, on a CPU), in bytes."""

    estimated_bytes: int | None = None
    """What preflight expects at the peak."""

    peak_bytes: int | None = None
    """The peak that was seen."""

    accelerator_bytes: int | None = None
    """What the accelerator has."""


class EvaluationScores(Message):
    """Scores on the held-out rows."""

    before: Scores | None = None
    """Before training."""

    after: Scores | None = None
    """After training."""

    reference: Scores | None = None
    """Of the reference model."""


class Attempt(Message):
    """One run of the trainer."""

    number: Annotated[int, Field(ge=1, le=LAST_NUMBER)]
    """Its number, from 1: it is the end of its Job's name."""

    reason: Annotated[str, Field(max_length=64)]
    """How it ended; `Running` until then."""

    start_time: Time
    """When its pod was scheduled: from then on it costs money."""

    end_time: Time | None = None
    """When its pod ended, and with it every other container there; until then its node is held and paid for."""

    node: Annotated[str, Field(max_length=253)] | None = None
    """The node it ran on; of several, the one that explains its end."""

    exit_code: int | None = None
    """Exit code of its trainer, where it came to one."""

    message: Annotated[str, Field(max_length=1024)] | None = None
    """How it ended, in the words of the trainer, the kubelet or whoever took the node away."""

    resumed_from_step: Count | None = None
    """The checkpoint that it went on from; 0 from the start."""

    last_step: Count | None = None
    """The last step that it was seen at."""

    checkpoint_step: Count | None = None
    """The newest checkpoint that it was seen to complete."""

    lost_steps: Count | None = None
    """Steps of the attempt before that had to be done again."""


class PublishedAdapter(Message):
    """What was published."""

    uri: Text
    """Folder of what was trained: an adapter, changed parameters, or a whole model."""

    sha256: Sha256
    """Digest of its weights; of their digests where they lie in several files."""

    size_bytes: int
    """Size of its weights in bytes."""

    base_model: Text
    """The model it belongs to."""

    base_revision: Text | None = None
    """The commit of that model, or the digest of its files."""


class FineTuneJobStatus(Message):
    """What the operator saw."""

    phase: Phase | None = None
    """Where the job is."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra={
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})] = ()
    """What is true of it, each with a reason and a sentence; one of each type."""

    observed_generation: int | None = None
    """The generation of the spec that this status speaks of."""

    started_generation: int | None = None
    """The generation of the spec that is being trained."""

    spec_hash: Sha256 | None = None
    """Digest of the spec that is being trained."""

    stage: Annotated[str, Field(max_length=64)] | None = None
    """What the trainer does."""

    preflight: PreflightStatus | None = None
    """What the check before the start found."""

    progress: Progress | None = None
    """How far the training is."""

    cost: Cost | None = None
    """What it costs."""

    memory: Memory | None = None
    """What memory it takes."""

    evaluation: EvaluationScores | None = None
    """Scores on the held-out rows."""

    attempts: Annotated[tuple[Attempt, ...], Field(max_length=10)] = ()
    """The last ten runs of the trainer."""

    retries: Retries | None = None
    """How often the trainer was started again."""

    adapter: PublishedAdapter | None = None
    """What was published."""

    image: Text | None = None
    """The trainer image of every attempt: by digest once a node has pulled it."""

    start_time: Time | None = None
    """When the first attempt was started; from then on the spec is fixed but for runPolicy and budget."""

    completion_time: Time | None = None
    """When it was done."""


def _unseen(kind: ConditionType, holds: ConditionStatus) -> dict[str, Any]:
    return Condition(type=kind, status=holds, reason=Reason.NOT_LOOKED_AT,
                     message="no operator has looked at the job yet: see that one runs and serves this namespace",
                     observed_generation=0, last_transition_time=datetime.fromtimestamp(0, UTC)).model_dump(mode="json")


UNSEEN_STATUS: dict[str, Any] = {
    "phase": Phase.PENDING.value,
    "conditions": [_unseen(ConditionType.PROGRESSING, ConditionStatus.UNKNOWN),
                   _unseen(ConditionType.RECONCILING, ConditionStatus.TRUE)],
}
"""What the apiserver shows of a job whose status nobody has written: no column is blank, and kstatus waits."""
