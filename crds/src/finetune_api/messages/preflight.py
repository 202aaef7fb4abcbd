"""The result message of a check before the start."""

from __future__ import annotations

import bisect
from enum import StrEnum

from finetune_api.messages.field_types import Sentence
from finetune_api.messages.result import RESULT_BYTES, SHORTEST_MESSAGE, Result
from finetune_api.reasons import Outcome
from finetune_api.status import AcceleratorChoice
from finetune_api.values.api_model import Message, Sha256
from finetune_api.values.quantities import Money


class PreflightVerdict(StrEnum):
    """Verdict of a preflight check."""

    PASSED = "Passed"
    REFUSED = "Refused"
    ALREADY_PUBLISHED = "AlreadyPublished"


class JobEstimate(Message):
    """Estimates for a job, from the model's sizes and the rows."""

    memory_bytes: int
    """Peak memory of one accelerator, in bytes."""

    micro_batch_size: int
    """Rows per forward pass that the estimate assumes."""

    gradient_checkpointing: bool
    """Whether the backward pass computes activations of some layers again."""

    tokens: int
    """Tokens to train on, over all epochs."""

    hours: float
    """Hours of training, on all accelerators together."""

    cost: Money
    """Cost of those hours."""

    checkpoint_bytes: int | None = None
    """Size of a checkpoint in bytes."""

    checkpointed_layers: int | None = None
    """Layers, from the first on, whose activations the backward pass computes again."""


class PreflightResult(Message):
    """The result of a preflight check: its pod's termination message, at most `RESULT_BYTES` long."""

    verdict: PreflightVerdict
    """Verdict of the check."""

    reason: Outcome
    """Reason of a rejection: the outcome that the attempt would have."""

    message: Sentence
    """What was found, where, and the change that makes the job run."""

    field: str | None = None
    """The field of the job that the message is about."""

    estimate: JobEstimate | None = None
    """Estimates for the job."""

    accelerator: AcceleratorChoice | None = None
    """The accelerator that was chosen; only with `compute.accelerator: auto`."""

    model_revision: str | None = None
    """The commit of a model on the hub."""

    data_hash: Sha256 | None = None
    """Digest of the prepared rows."""

    published: Result | None = None
    """The result that is published already."""

    def to_bytes(self) -> bytes:
        """The message as one line of JSON of at most `RESULT_BYTES`.

        To fit, it drops in this order: the scores, the end of the message, the published result.
        """
        if len(text := self._written()) <= RESULT_BYTES:
            return text
        short = self.published and self.published.model_copy(update={
            "evaluation": None, "memory": None, "message": self.published.message[:SHORTEST_MESSAGE]})
        for published in short, None:
            whole = self.model_copy(update={"published": published})
            if len(text := whole._written()) <= RESULT_BYTES:
                return text
            fits = whole._fitting()
            if fits >= SHORTEST_MESSAGE:
                break
        return whole._cut(fits)._written()

    def _fitting(self) -> int:
        return bisect.bisect(range(len(self.message)), RESULT_BYTES,
                             key=lambda length: len(self._cut(length)._written())) - 1

    def _cut(self, length: int) -> PreflightResult:
        return self.model_copy(update={"message": self.message[:length] + "…"})

    def _written(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()
