"""What the pod that writes an experiment's report tells the operator."""

from __future__ import annotations

from finetune_api.experiment.comparison import Comparison
from finetune_api.messages import RESULT_BYTES, Outcome, Sentence
from finetune_api.values.api_model import Message

_SHORT = 200


class ReportedExperiment(Message):
    """How the report was made: the pod's termination message, at most `RESULT_BYTES` long."""

    outcome: Outcome
    """How it ended."""

    message: Sentence
    """Who won, or what went wrong."""

    report: str | None = None
    """Location of the page."""

    comparison: Comparison | None = None
    """The comparison row by row, of as many of the best variants as fit."""

    def to_bytes(self) -> bytes:
        """The message as one line of JSON of at most `RESULT_BYTES`.

        To fit, it drops the end of the sentence, then the last variants.
        """
        message = self
        if len(message._written()) > RESULT_BYTES:
            message = message.model_copy(update={"message": self.message[:_SHORT] + "…"
                                                 if len(self.message) > _SHORT else self.message})
        while len(message._written()) > RESULT_BYTES and message.comparison and message.comparison.variants:
            fewer = message.comparison.model_copy(update={"variants": message.comparison.variants[:-1]})
            message = message.model_copy(update={"comparison": fewer})
        return message._written()

    def _written(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()
