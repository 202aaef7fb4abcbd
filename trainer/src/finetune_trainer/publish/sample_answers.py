"""The file with the answers to the first held-out questions."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.messages import AnsweredQuestion, GivenAnswer, SampleAnswers

from finetune_trainer.data.rows import EvaluationRow
from finetune_trainer.publish.row_scores import row_digest
from finetune_trainer.report.examples import answered_examples, judged
from finetune_trainer.report.facts import RunFacts
from finetune_trainer.report.page import encodable


def sample_answers(rows: Sequence[EvaluationRow], facts: RunFacts) -> SampleAnswers:
    """The questions that the report shows, with the same answers.

    Args:
        rows: the held-out rows.
        facts: the facts of the run.
    """
    return SampleAnswers(judged=judged(facts), questions=tuple(
        AnsweredQuestion(row=row_digest(row.example), question=encodable(one.question),
                         expected=encodable(one.expected),
                         **{given.title: GivenAnswer(text=encodable(given.text), right=given.right)
                            for given in one.answers})
        for row, one in zip(rows, answered_examples(facts), strict=False)))
