"""Rules that join fields of an experiment's spec."""

from __future__ import annotations

import itertools
from typing import Any

from finetune_api.rule import Rule, Section
from finetune_api.rules import RULES as JOB_RULES

_NOT_IN_CEL = ""
"""In place of CEL: CEL does not see fields of any type (`grid`, `values`), and the schema itself has the other rules
(`x-kubernetes-list-map-keys`, `maxProperties`). `parse_experiment` judges them all.
"""


def _are_ranges(search: Section) -> bool:
    """Whether the bounds of each field that has some are two that its scale can be drawn between."""
    return all(
        ("minimum" in field) == ("maximum" in field) and (
            "minimum" not in field or (field["minimum"] < field["maximum"]
                                       and (field.get("scale") != "log" or field["minimum"] > 0)))
        for field in search["fields"].values())


def _have_one_source(search: Section) -> bool:
    """Whether each field has either values or bounds."""
    return all(("values" in field) != ("minimum" in field or "maximum" in field) for field in search["fields"].values())


def _rise(numbers: Any) -> bool:
    return all(one < other for one, other in itertools.pairwise(numbers))


def _have_own_names(spec: Section) -> bool:
    names = [variant["name"] for variant in spec.get("variants", ())]
    return len(set(names)) == len(names)


RULES: tuple[Rule, ...] = (
    Rule(
        "spec", "variants",
        lambda spec: bool(spec.get("variants")) or "sweep" in spec,
        "(has(self.variants) && size(self.variants) > 0) || has(self.sweep)",
        "there is nothing to compare: write variants, a sweep, or both",
        accepts={"sweep": {"grid": {"training.seed": [1, 2]}}, "variants": None}, refuses={"variants": None},
    ),
    Rule(
        "spec", "variants", _have_own_names, _NOT_IN_CEL,
        "two variants have the same name: give each its own",
        accepts={"variants": [{"name": "one"}, {"name": "two"}]},
        refuses={"variants": [{"name": "one"}, {"name": "one"}]},
    ),
    Rule(
        "spec.sweep", "grid",
        lambda sweep: ("grid" in sweep) != ("random" in sweep), _NOT_IN_CEL,
        "exactly one of grid and random is needed: write one of them",
        accepts={"grid": {"training.seed": [1]}}, refuses={},
    ),
    Rule(
        "spec.sweep.random", "fields", _are_ranges,
        "self.fields.all(name, has(self.fields[name].minimum) == has(self.fields[name].maximum) && "
        "(!has(self.fields[name].minimum) || (self.fields[name].minimum < self.fields[name].maximum && "
        "(!has(self.fields[name].scale) || self.fields[name].scale != 'log' || self.fields[name].minimum > 0.0))))",
        "a range needs a minimum below a maximum, and with scale: log one above 0: write both",
        accepts={"samples": 2, "fields": {"training.learningRate": {"minimum": 0.0001, "maximum": 0.01,
                                                                     "scale": "log"}}},
        refuses={"samples": 2, "fields": {"training.learningRate": {"minimum": 0, "maximum": 0.01, "scale": "log"}}},
    ),
    Rule(
        "spec.sweep.random", "fields", _have_one_source, _NOT_IN_CEL,
        "each field needs values, or minimum and maximum, and not both: write one of them",
        accepts={"samples": 2, "fields": {"training.seed": {"values": [1, 2]}}},
        refuses={"samples": 2, "fields": {"training.seed": {"values": [1, 2], "minimum": 1, "maximum": 2}}},
    ),
    Rule(
        "spec.earlyStop", "rungs",
        lambda stop: _rise(stop["rungs"]),
        "self.rungs.all(one, self.rungs.exists_one(other, other == one)) && self.rungs.isSorted()",
        "each rung is longer than the one before: write the shares in rising order",
        accepts={"rungs": [0.1, 0.3]}, refuses={"rungs": [0.3, 0.1]},
    ),
    *(rule for rule in JOB_RULES if rule.path == "spec.budget.maxCost"),
)
"""The rules of every experiment, in the order in which errors are listed. Those of its jobs are judged on each job."""
