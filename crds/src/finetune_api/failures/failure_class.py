"""What one failure class says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum


class Retry(StrEnum):
    """Whether another attempt follows."""

    NEVER = "never"
    """The job fails at once."""

    FREE = "free"
    """The next attempt follows and does not count; ten in a row without a newer checkpoint are the most."""

    COUNTED = "counted"
    """The next attempt follows, at most `runPolicy.backoffLimit` times."""

    SMALLER_PLAN = "smaller plan"
    """One more attempt follows, with one row per forward pass and gradient checkpointing."""

    ELSEWHERE = "elsewhere"
    """The next attempt follows on another node, for as long as it takes."""


class Delay(StrEnum):
    """How long the next attempt waits after the end of this one."""

    NONE = "none"
    """It starts at once."""

    DOUBLING = "doubling"
    """10 s, doubled with each retry that counts, up to 10 minutes. `retryDelay` of the settings changes the 10 s."""

    DOUBLING_TO_AN_HOUR = "doubling to an hour"
    """The same, doubled with each attempt that did not start, up to an hour."""


class AlertGroup(Enum):
    """The alerts about failed jobs. Different people act on each: the value is its name and its label `class`."""

    SPEC = "FineTuneJobFailedByItsSpec", "spec"
    MEMORY = "FineTuneJobFailedByMemory", "memory"
    LIMITS = "FineTuneJobFailedByItsLimits", "limits"
    PLATFORM = "FineTuneJobFailedOnThePlatform", "platform"


@dataclass(frozen=True, kw_only=True)
class FailureClass:
    """One way in which an attempt, or a job, ends badly: everything that the programs and the docs say about it.

    Attributes:
        reason: the word in conditions, attempts, events and results.
        retry: whether another attempt follows.
        cause: what happened, as a sentence; the docs and the enums have it.
        cure: what the user or the administrator does, as a sentence; the docs have it.
        exit_code: the trainer's exit code; None where the operator alone sees such an end. 0 is an end that the trainer
            reports in its result.
        message: the condition's message if the trainer ended with `exit_code` and left no result.
        delay: how long the next attempt waits.
        avoids_node: whether the next attempts keep away from the node, for a time.
        first_start: `retry` where no trainer of the job has run yet; None where it is the same.
        alert: the alert that fires when a job fails for this reason; None where no job does.
        changes_training: whether the cure changes what is trained. If so, no other job can resume from its checkpoints.
        member: the name in the enums; None for the reason in capitals (`BadData` is `BAD_DATA`).
    """

    reason: str
    retry: Retry
    cause: str
    cure: str
    exit_code: int | None = None
    message: str = ""
    delay: Delay = Delay.DOUBLING
    avoids_node: bool = False
    first_start: Retry | None = None
    alert: AlertGroup | None = None
    changes_training: bool = False
    member: str | None = None

    @property
    def name(self) -> str:
        """The name in the enums."""
        return self.member or member_name(self.reason)


def member_name(reason: str) -> str:
    """The name of an enum's member for a reason: `BadData` is `BAD_DATA`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", reason).upper()
