"""The reasons that the operator can tell, read from its source: so that none is forgotten where all must be listed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import finetune_operator
from finetune_api.messages import Outcome
from finetune_api.status import NOT_LOOKED_AT, Phase
from finetune_operator.decide.attempts import JOB_DELETED
from finetune_operator.decide.failure import (
    CHECKING,
    DISRUPTED,
    NODE_REFUSED,
    OVERDUE,
    POD_LOST,
    PREEMPTED,
    WAITING_FOR_CHECK,
)

_POSITION = {"Told": 1, "Verdict": 1, "_finish": 1, "condition": 2, "_telling": 2}
"""Calls that tell a reason, and the argument that it is."""
_GOOD = {Outcome.SUCCEEDED, Outcome.ALREADY_PUBLISHED, Outcome.STOPPED_EARLY}


def _calls() -> Iterator[tuple[str, set[str]]]:
    for path in sorted(Path(finetune_operator.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):  # The status that keeps a check's refusal.
                yield from (("refused", _words(value)) for key, value in zip(node.keys, node.values, strict=True)
                            if isinstance(key, ast.Constant) and key.value == "refused")
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _POSITION and len(node.args) > _POSITION[name]:
                yield name, _words(node.args[_POSITION[name]])


def _words(argument: ast.expr) -> set[str]:
    return {one.value for one in ast.walk(argument)
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isalpha()}


WRITTEN = set.union(*(found for _, found in _calls()))
FAILURES = (set.union(*(found for name, found in _calls() if name in ("Verdict", "_finish")))
            | {str(one) for one in Outcome if one not in _GOOD and one is not Outcome.STOPPED}
            | {JOB_DELETED, POD_LOST})
"""What a job can be Failed with."""
TOLD = (WRITTEN | FAILURES | {CHECKING, WAITING_FOR_CHECK, OVERDUE, PREEMPTED, DISRUPTED, NODE_REFUSED, NOT_LOOKED_AT}
        | {str(one) for one in Outcome} | {str(Phase.RUNNING), str(Phase.EVALUATING), str(Phase.UPLOADING)})
"""Every reason of a condition or of an attempt."""
