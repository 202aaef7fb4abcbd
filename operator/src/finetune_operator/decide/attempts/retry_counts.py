"""How many retries of each kind are counted after the end of an attempt. Pure.

decide/stages/after_attempt.py compares the counts with their limits.
"""

from __future__ import annotations

from finetune_api.failures import Retry
from finetune_api.status import Retries

from finetune_operator.decide.attempts.verdict import AttemptVerdict

FREE_RETRIES = 10
"""This many free retries in a row may bring no newer checkpoint."""


def count_retry(retries: Retries, verdict: AttemptVerdict, newer_checkpoint: bool = False) -> Retries:
    """The retries after one more end of an attempt.

    Args:
        retries: the retries before.
        verdict: what the end means.
        newer_checkpoint: whether the attempt wrote a newer checkpoint than all before it. Then every count is reset.
    """
    if verdict.retry is Retry.ELSEWHERE:
        return retries.model_copy(update={"unstarted": retries.unstarted + 1})
    before = Retries() if newer_checkpoint else retries.model_copy(update={"unstarted": 0})
    if verdict.retry is Retry.COUNTED:
        return before.model_copy(update={"counted": before.counted + 1})
    if verdict.retry is Retry.FREE and not newer_checkpoint:
        return before.model_copy(update={"without_progress": before.without_progress + 1})
    return before
