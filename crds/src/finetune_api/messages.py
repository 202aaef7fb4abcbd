"""What operator and trainer tell each other: run configuration, limits, progress, result and manifest."""

from __future__ import annotations

import bisect
import operator
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from finetune_api.base import ApiModel, Message, Sha256
from finetune_api.money import Price
from finetune_api.paths import RelativePath
from finetune_api.printable import printable
from finetune_api.quantities import Money
from finetune_api.reasons import Outcome as Outcome
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import Cost, EvaluationScores, Memory, Progress, PublishedAdapter

RESULT_BYTES = 3 * 1024
"""Largest result message: the kubelet keeps the last 4096 bytes of a termination message."""

_SHORTEST_MESSAGE = 200

Time = Annotated[datetime, Field(strict=False)]
Date = Annotated[date, Field(strict=False)]


def _clean(text: Any) -> Any:
    return printable(text) if isinstance(text, str) else text


Sentence = Annotated[str, BeforeValidator(_clean)]
"""Text for people. A name in it need not be UTF-8, or may hold control characters: these are written as escapes."""


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

        A user's own file is read by `finetune_api.loading`, which refuses them.

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


class Stage(StrEnum):
    """What a trainer is doing."""

    LOADING = "loading"
    PREPARING_DATA = "preparing data"
    EVALUATING_BEFORE = "evaluating before"
    TRAINING = "training"
    WARM_UP = "warming up"
    PPO = "PPO"
    EVALUATING_AFTER = "evaluating after"
    EXPORTING = "exporting"
    PUBLISHING = "publishing"
    DONE = "done"


class ProgressMessage(Message):
    """What `/progress` answers: for display only."""

    stage: Stage
    """What it is doing."""

    progress: Progress | None = None
    """How far the training is."""

    cost: Cost | None = None
    """What this attempt costs."""

    memory: Memory | None = None
    """What memory it takes."""

    resumed_from_step: int = 0
    """The checkpoint that it went on from."""

    checkpoint_step: int = 0
    """The newest checkpoint that is complete in the output."""


class Result(Message):
    """The last word of an attempt: the pod's termination message, at most `RESULT_BYTES` long."""

    outcome: Outcome
    """How it ended."""

    message: Sentence
    """A sentence: what happened, where, and what to do."""

    step: int = 0
    """Optimizer steps done."""

    total_steps: int | None = None
    """Optimizer steps planned."""

    resumed_from_step: int = 0
    """The checkpoint that it went on from."""

    checkpoint_step: int = 0
    """The newest checkpoint that is complete in the output."""

    evaluation: EvaluationScores | None = None
    """Scores on the held-out rows."""

    memory: Memory | None = None
    """What memory it took."""

    adapter: PublishedAdapter | None = None
    """What was published."""

    manifest: str | None = None
    """Location of the manifest."""

    def to_bytes(self) -> bytes:
        """The message as one line of JSON of at most `RESULT_BYTES`.

        What is too much goes in this order: the scores, the end of the sentence, and only then where the result is.
        """
        if len(text := self._written({})) <= RESULT_BYTES:
            return text
        for left_out in ("evaluation",), ("evaluation", "adapter"), ("evaluation", "adapter", "memory", "manifest"):
            change = dict.fromkeys(left_out)
            if len(text := self._written(change)) <= RESULT_BYTES:
                return text
            fits = bisect.bisect(
                range(len(self.message)), RESULT_BYTES,
                key=lambda length: len(self._written({**change, "message": self.message[:length] + "…"})),
            ) - 1
            if fits >= _SHORTEST_MESSAGE:
                break
        return self._written({**change, "message": self.message[:fits] + "…"})

    def _written(self, change: dict[str, Any]) -> bytes:
        return self.model_copy(update=change).model_dump_json(exclude_none=True).encode()


class PreflightVerdict(StrEnum):
    """What preflight found."""

    PASSED = "Passed"
    REFUSED = "Refused"
    ALREADY_PUBLISHED = "AlreadyPublished"


class JobEstimate(Message):
    """What a job is expected to take: estimates, from the model's sizes and the rows."""

    memory_bytes: int
    """Peak memory of one accelerator, in bytes."""

    micro_batch_size: int
    """Rows in one forward pass that were reckoned with."""

    gradient_checkpointing: bool
    """Whether activations are computed again."""

    tokens: int
    """Tokens to train on, over all epochs."""

    hours: float
    """Hours of training, on all accelerators together."""

    cost: Money
    """What these cost."""

    checkpoint_bytes: int | None = None
    """Size of a checkpoint."""


class PreflightResult(Message):
    """The last word of a preflight: its pod's termination message, at most `RESULT_BYTES` long."""

    verdict: PreflightVerdict
    """What was found."""

    reason: Outcome
    """What a refusal is about, as the end of an attempt."""

    message: Sentence
    """A sentence: what was found, where, and the change that would make it work."""

    field: str | None = None
    """The field of the job that it is about."""

    estimate: JobEstimate | None = None
    """What the job takes."""

    model_revision: str | None = None
    """The commit of a model on the hub."""

    data_hash: Sha256 | None = None
    """Digest of the prepared rows."""

    published: Result | None = None
    """The result that is there already."""

    def to_bytes(self) -> bytes:
        """The message as one line of JSON of at most `RESULT_BYTES`.

        What is too much goes in this order: the scores, the end of the sentence, and only then what is published.
        """
        if len(text := self._written()) <= RESULT_BYTES:
            return text
        short = self.published and self.published.model_copy(update={
            "evaluation": None, "memory": None, "message": self.published.message[:_SHORTEST_MESSAGE]})
        for published in short, None:
            whole = self.model_copy(update={"published": published})
            if len(text := whole._written()) <= RESULT_BYTES:
                return text
            fits = whole._fitting()
            if fits >= _SHORTEST_MESSAGE:
                break
        return whole._cut(fits)._written()

    def _fitting(self) -> int:
        return bisect.bisect(range(len(self.message)), RESULT_BYTES,
                             key=lambda length: len(self._cut(length)._written())) - 1

    def _cut(self, length: int) -> PreflightResult:
        return self.model_copy(update={"message": self.message[:length] + "…"})

    def _written(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class PublishedFile(Message):
    """One file of a checkpoint or result."""

    path: RelativePath
    """Path below the folder that lists it."""

    sha256: Sha256
    """Digest."""

    size_bytes: Annotated[int, Field(ge=0)]
    """Size in bytes."""


class CheckpointManifest(Message):
    """Written last into a checkpoint's folder: who sees it sees a complete checkpoint."""

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps done."""

    attempt: int
    """The attempt that wrote it."""

    spec_hash: Sha256
    """Digest of what decides the result."""

    data_hash: Sha256
    """Digest of the prepared rows."""

    base_hash: Sha256
    """Digest of the base weights as they are in memory, quantized or not."""

    trained_seconds: float
    """How long trainers had run until then, over all attempts, in seconds."""

    environment: dict[str, str]
    """Machine type, thread count and package versions: a resumed run is bit-exact where these are the same."""

    date: Date | None = None
    """The day that its rows took for today: a run that goes on from it takes the same one."""

    files: tuple[PublishedFile, ...]
    """The files of the checkpoint."""


class Manifest(Message):
    """Written last, once: who sees it sees one complete result."""

    schema_version: int = 1
    """Version of this format."""

    namespace: str
    """Namespace of the job."""

    name: str
    """Name of the job."""

    uid: str
    """Identity of the job."""

    attempt: int
    """The attempt that published."""

    spec_hash: Sha256
    """Digest of what decides the result."""

    data_hash: Sha256
    """Digest of the prepared rows."""

    base_model: str
    """The model that the adapter belongs to."""

    base_revision: str | None = None
    """Its commit, or the digest of its files."""

    base_description: Sha256 | None = None
    """Digest of its configuration, tokenizer and chat template, where the revision does not tell of them."""

    created: Time
    """When it was published."""

    files: tuple[PublishedFile, ...]
    """Every file of the result, below the job's folder."""

    result: Result
    """What the job ended with."""

    packages: dict[str, str]
    """Package versions."""

    run: dict[str, Any]
    """The run configuration."""
