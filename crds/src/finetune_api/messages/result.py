"""The result message of an attempt."""

from __future__ import annotations

import bisect
from typing import Any

from finetune_api.messages.field_types import Sentence
from finetune_api.reasons import Outcome
from finetune_api.status import EvaluationScores, Memory, PublishedAdapter
from finetune_api.values.api_model import Message

RESULT_BYTES = 3 * 1024
"""Largest result message: the kubelet keeps the last 4096 bytes of a termination message."""

SHORTEST_MESSAGE = 200


class Result(Message):
    """The result of an attempt: the pod's termination message, at most `RESULT_BYTES` long."""

    outcome: Outcome
    """How it ended."""

    message: Sentence
    """What happened, where, and what to do."""

    step: int = 0
    """Number of optimizer steps done."""

    total_steps: int | None = None
    """Number of optimizer steps planned."""

    resumed_from_step: int = 0
    """The step of the checkpoint that it resumed from."""

    checkpoint_step: int = 0
    """The step of the newest complete checkpoint in the output."""

    evaluation: EvaluationScores | None = None
    """Scores on the held-out rows."""

    memory: Memory | None = None
    """Memory that the attempt needed."""

    adapter: PublishedAdapter | None = None
    """What the attempt published."""

    manifest: str | None = None
    """Location of the manifest."""

    def to_bytes(self) -> bytes:
        """The message as one line of JSON of at most `RESULT_BYTES`.

        To fit, it drops in this order: the scores, the end of the message, the location of the result.
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
            if fits >= SHORTEST_MESSAGE:
                break
        return self._written({**change, "message": self.message[:fits] + "…"})

    def _written(self, change: dict[str, Any]) -> bytes:
        return self.model_copy(update=change).model_dump_json(exclude_none=True).encode()
