"""Every rule that joins several fields, declared once: what holds, what to say, and one case for and against.

A rule judges the object as the user wrote it (camelCase keys, only what is there), here in Python and in the cluster
as CEL; the apiserver has filled in the defaults of the CustomResourceDefinition by then. Rules of one field alone are
in its type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.rule import Rule, Section, Violation, look_up, merge_patch
from finetune_api.rules import compute, dataset, evaluation, limits, method, training
from finetune_api.rules.locations import STORED_RULES

__all__ = ["FIXED_SECTIONS", "RULES", "SMALLEST_SPEC", "STORED_RULES", "Rule", "Section", "Violation", "broken_rules",
           "look_up", "merge_patch"]

RULES: tuple[Rule, ...] = (*dataset.RULES, *method.RULES, *training.RULES, *evaluation.RULES, *compute.RULES,
                            *limits.RULES)
"""The rules of every job, in the order in which errors are listed."""

FIXED_SECTIONS = ("model", "dataset", "output", "method", "engine", "training", "evaluation", "compute")
"""The sections of a spec that cannot change once the job has started: all except runPolicy and budget."""

SMALLEST_SPEC: Section = {
    "model": {"source": "owner/name"},
    "dataset": {"source": "s3://bucket/train.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}"},
    "output": {"uri": "s3://bucket/prefix"},
}
"""The smallest spec there is: a model, a data set and an output. The rules' cases are patches on it."""


def _written(tree: Any) -> Any:
    """A tree without nulls: the apiserver, too, treats a null like a missing field."""
    if isinstance(tree, Mapping):
        return {key: _written(value) for key, value in tree.items() if value is not None}
    return tree


def broken_rules(job: Section, rules: tuple[Rule, ...] = RULES) -> Iterator[Violation]:
    """The rules that a job breaks, in their order.

    A rule that meets a value of an impossible type is passed over: that value has an error of its own.
    """
    job = _written(job)
    for rule in rules:
        section = look_up(job, rule.section)
        if not isinstance(section, Mapping):
            continue
        try:
            held = rule.holds(section)
        except (TypeError, KeyError, AttributeError):
            continue
        if not held:
            yield Violation(rule.path, look_up(job, rule.path), rule.message)
