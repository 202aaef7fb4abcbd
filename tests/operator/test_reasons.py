"""Every reason that a job's conditions can have stands in the API, and is explained with cause and cure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import finetune_operator
import pytest
from finetune_api.failures import EXPLANATIONS, FAILURE_CLASSES, Retry
from finetune_api.reasons import Reason
from finetune_operator.decide.failure import Answer, answer_to

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conditions.md"
SECTIONS = PAGE.read_text(encoding="utf-8").partition("generated: begin")[2]
ROWS = dict(re.findall(r"^\| `(\w+)` \|(.*)$", SECTIONS, re.MULTILINE))
_POSITION = {"Told": 1, "Verdict": 1, "_verdict": 0, "_finish": 1, "condition": 2, "_telling": 2}
"""Calls that take a reason, and the argument that it is."""


def test_every_reason_is_explained_and_nothing_else_is():
    assert set(ROWS) == set(Reason)


def test_every_failure_says_its_cause_and_its_cure():
    for one in FAILURE_CLASSES:
        assert len(one.cause) > 15, one.reason
        assert len(one.cure) > 7, one.reason
        assert one.message or not one.exit_code or one.exit_code == 1, f"{one.reason}: what is told without a result"


def test_every_word_that_the_operator_tells_as_a_reason_is_one_of_the_api():
    told = set(_written_reasons())
    assert told - set(Reason) == set()


def _written_reasons() -> Iterator[str]:
    sources = sorted(Path(finetune_operator.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _POSITION and len(node.args) > _POSITION[name]:
                yield from (one.value for one in ast.walk(node.args[_POSITION[name]])
                            if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isalpha())


@pytest.mark.parametrize("one", FAILURE_CLASSES, ids=lambda one: one.reason)
def test_the_operator_answers_a_failure_as_its_class_says(one):
    expected = {Retry.NEVER: Answer.FAIL, Retry.FREE: Answer.RETRY_FREE, Retry.COUNTED: Answer.RETRY_COUNTED,
                Retry.SMALLER_PLAN: Answer.RETRY_SMALLER, Retry.ELSEWHERE: Answer.RETRY_ELSEWHERE}
    assert answer_to(one.reason) is expected[one.retry]
    assert answer_to(one.reason, ran=False) is expected[one.first_start or one.retry]


def test_no_word_has_two_entries():
    words = [one.reason for one in (*FAILURE_CLASSES, *EXPLANATIONS)]
    assert len(set(words)) == len(words)
