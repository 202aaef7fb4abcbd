"""Every reason that a job's conditions can have stands in the API, and is explained with cause and cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from finetune_api.failures import EXPLANATIONS, FAILURE_CLASSES, Retry
from finetune_api.reasons import Reason
from finetune_operator.decide.attempts.verdict import failed_verdict, retry_after

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conditions.md"
SECTIONS = PAGE.read_text(encoding="utf-8").partition("generated: begin")[2]
ROWS = dict(re.findall(r"^\| `(\w+)` \|(.*)$", SECTIONS, re.MULTILINE))


def test_every_reason_is_explained_and_nothing_else_is():
    assert set(ROWS) == set(Reason)


def test_every_failure_says_its_cause_and_its_cure():
    for one in FAILURE_CLASSES:
        assert len(one.cause) > 15, one.reason
        assert len(one.cure) > 7, one.reason
        assert one.message or not one.exit_code or one.exit_code == 1, f"{one.reason}: what is told without a result"


@pytest.mark.parametrize("one", FAILURE_CLASSES, ids=lambda one: one.reason)
def test_the_operator_retries_as_the_failure_class_says(one):
    assert failed_verdict(one.reason, "words").retry is retry_after(one.reason) is one.retry
    assert retry_after(one.reason, trainer_has_run=False) is (one.first_start or one.retry)


def test_a_reason_without_a_failure_class_is_a_counted_retry():
    assert retry_after("OfAnotherRelease") is Retry.COUNTED


def test_no_word_has_two_entries():
    words = [*(one.reason for one in FAILURE_CLASSES), *(one.reason for one in EXPLANATIONS)]
    assert len(set(words)) == len(words)
