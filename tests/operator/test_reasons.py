"""Every reason that a job's conditions can have is explained, with cause and cure."""

from __future__ import annotations

import re
from pathlib import Path

from tests.operator.reasons import FAILURES, TOLD

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conditions.md"
SECTIONS = PAGE.read_text(encoding="utf-8").partition("\n## ")[2]
"""What follows the conditions themselves."""
ROWS = dict(re.findall(r"^\| `(\w+)` \|(.*)$", SECTIONS, re.MULTILINE))


def test_every_reason_is_explained_and_nothing_else_is():
    assert set(ROWS) == TOLD


def test_every_failure_says_its_cause_and_its_cure():
    for reason in FAILURES:
        cause, cure, *_ = (cell.strip() for cell in ROWS[reason].split("|"))
        assert len(cause) > 15, reason
        assert len(cure) > 15, reason
