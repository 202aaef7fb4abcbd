"""The rules of an experiment: one case that each accepts, one that it refuses."""

from __future__ import annotations

import pytest
from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.experiment.rules import RULES
from finetune_api.explain.fields import document_field
from finetune_api.rule import Rule

from tests.api.experiments import errors_with
from tests.api.jobs import nested


def _with(rule: Rule, section) -> dict:
    return nested(rule.section, section)["spec"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}: {rule.message}")
def test_a_rule_accepts_one_case_and_refuses_the_other(rule):
    assert errors_with(**_with(rule, rule.accepts)) == []
    (error,) = errors_with(**_with(rule, rule.refuses))
    assert f"{rule.path}" in error
    assert rule.message in error


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.path)
def test_a_rule_points_at_a_field_that_exists(rule):
    assert document_field(FineTuneExperiment, rule.path).path == rule.path


@pytest.mark.parametrize(("sections", "message"), [
    ({"rankBy": None}, "spec.rankBy: missing: How the results are ranked."),
    ({"repeats": 11}, "spec.repeats is 11: write a number of at most 10"),
    ({"parallelism": 0}, "spec.parallelism is 0: write a number of at least 1"),
    ({"variants": [{"name": "Upper"}]}, 'spec.variants.0.name is "Upper": write '),
    ({"variants": [{"name": "one", "patsch": {}}]}, "spec.variants.0.patsch: unknown field: did you mean patch?"),
    ({"template": {"spec": {"training": {"bachSize": 8}}}},
     "spec.template.spec.training.bachSize: unknown field: did you mean batchSize?"),
    ({"sweep": {"grid": {"training.seed": []}}}, "spec.sweep.grid.training.seed"),
    ({"sweep": {"grid": {"training.seed": [[1]]}}}, "write a number, a text, true or false"),
    ({"sweep": {"grid": {"Training seed": [1]}}}, "spec.sweep.grid"),
    ({"earlyStop": {"rungs": [1.0]}}, "spec.earlyStop.rungs.0 is 1.0: write a number below 1"),
], ids=str)
def test_a_wrong_field_is_named_with_what_to_write(sections, message):
    errors = errors_with(**sections)
    assert any(message in error for error in errors), errors
