"""The termination message of the pod that writes an experiment's report."""

from __future__ import annotations

from finetune_api.experiment.ranking import Ranking
from finetune_api.experiment.status import RankedVariant
from finetune_api.messages import RESULT_BYTES, Outcome, Sentence
from finetune_api.values.api_model import Message

_SHORT = 200


class ReportedExperiment(Message):
    """How the report was made, and the ranking: at most `RESULT_BYTES` as JSON."""

    outcome: Outcome
    """How it ended."""

    message: Sentence
    """What the report lacks, or what went wrong."""

    is_incomplete: bool = False
    """Whether a part of the results could not be read."""

    report: str | None = None
    """Location of the page."""

    winner: str | None = None
    """The variant that won; None if none clearly did."""

    conclusion: str | None = None
    """Who won and why, or why nobody did, by the comparison row by row."""

    ranking: tuple[RankedVariant, ...] = ()
    """The ranking by that comparison: as many of the best variants as fit."""

    def to_bytes(self) -> bytes:
        """The message as one line of JSON of at most `RESULT_BYTES`.

        To fit, it drops the end of the sentence, then the last variants.
        """
        message = self
        if len(message._written()) > RESULT_BYTES:
            message = message.model_copy(update={"message": self.message[:_SHORT] + "…"
                                                 if len(self.message) > _SHORT else self.message})
        while len(message._written()) > RESULT_BYTES and message.ranking:
            message = message.model_copy(update={"ranking": message.ranking[:-1]})
        return message._written()

    def _written(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    def ranked(self, by_scores: Ranking) -> Ranking:
        """The whole ranking: the variants that are named here first, then the others by their scores.

        A variant that has no result is none of the experiment's, whatever the pod says.

        Args:
            by_scores: the ranking of all variants by their scores alone.
        """
        known = {one.variant for one in by_scores.variants}
        named = {one.variant: one for one in self.ranking if one.variant in known}
        others = [one for one in by_scores.variants if one.variant not in named]
        return Ranking(
            (*named.values(), *(one.model_copy(update={"rank": place, "verdict": _BEYOND})
                                for place, one in enumerate(others, start=len(named) + 1))),
            self.winner if self.winner in known else None, self.conclusion or by_scores.conclusion)


_BEYOND = "compared in the report"
