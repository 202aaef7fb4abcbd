"""What a rule is, and how sections of a job are read and patched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        section: the part of the job that it judges, such as `spec.dataset`.
        field: the field, below the section, that an error points at.
        holds: whether a section keeps the rule.
        cel: the same in CEL, where `self` is the section; empty for a rule that CEL cannot judge.
        message: what is wrong and what to write instead.
        accepts: a section that keeps it, given as a merge patch on the smallest job's section.
        refuses: a section that breaks it.
    """

    section: str
    field: str
    holds: Callable[[Section], bool]
    cel: str
    message: str
    accepts: Section
    refuses: Section

    @property
    def path(self) -> str:
        """The field that an error points at, from the root of the job."""
        return f"{self.section}.{self.field}"


@dataclass(frozen=True)
class Violation:
    """A broken rule: the path and the value of the field, and the rule's message."""

    path: str
    value: Any
    message: str


CEL_PROCESSES = ("(has(self.compute) ? self.compute.nodes * "
                  "(self.compute.accelerator == 'cpu' ? 1 : self.compute.gpusPerNode) : 1)")


def processes(spec: Section) -> int:
    """How many processes train together; `CEL_PROCESSES` is the same in CEL, where `self` is the spec."""
    compute = spec.get("compute", {})
    gpus: int = 1 if compute.get("accelerator") == "cpu" else compute.get("gpusPerNode", 1)
    nodes: int = compute.get("nodes", 1)
    return nodes * gpus or 1  # A zero has an error of its own.


def merge_patch(base: Section, patch: Section) -> dict[str, Any]:
    """`base` with `patch` merged in; None removes a key (RFC 7386)."""
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge_patch(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def look_up(tree: Any, path: str) -> Any:
    """The value at a dotted path, or None where there is nothing."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
