"""Every rule that joins several fields: one case that it accepts, one that it refuses."""

from __future__ import annotations

import pytest
from finetune_api import FineTuneJob
from finetune_api.explain.fields import document_field
from finetune_api.rules import RULES, Rule, broken_rules, merge_patch

from tests.api.jobs import document, errors_of, job, nested


def _with(rule: Rule, section) -> dict:
    patch = nested(rule.section, section)["spec"]
    return document(**patch)


def _name(rule: Rule) -> str:
    return f"{rule.path}: {rule.message}"


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_a_rule_accepts_the_case_that_keeps_it(rule):
    assert errors_of(_with(rule, rule.accepts)) == []


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_a_rule_alone_refuses_the_case_that_breaks_it(rule):
    (error,) = errors_of(_with(rule, rule.refuses))
    assert (error.path, error.message) == (rule.path, rule.message)


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_a_rule_points_at_a_field_that_exists(rule):
    assert document_field(FineTuneJob, rule.path).path == rule.path


def test_the_smallest_job_breaks_no_rule():
    assert job().spec.training.batch_size == 16


def test_a_null_counts_as_left_out():
    assert errors_of(document(training={"maxSteps": 10})) == []
    with_null = document()
    with_null["spec"]["training"] = {"maxSteps": 10, "epochs": None}
    assert errors_of(with_null) == []


def test_two_rules_of_one_field_are_both_reported():
    errors = errors_of(document(evaluation={"metrics": ["schemaValid"]}))
    assert [error.path for error in errors] == ["spec.evaluation.metrics"] * 2


def test_a_rule_passes_over_a_section_of_an_impossible_type():
    assert [error.path for error in errors_of(document(dataset="train.jsonl", method="LoRA"))] == [
        "spec.dataset", "spec.method"]
    assert list(broken_rules(document(training={"batchSize": "many", "microBatchSize": 4}))) == []


def test_a_broken_rule_shows_the_value_of_its_field():
    (error,) = errors_of(document(training={"batchSize": 8, "microBatchSize": 9}))
    assert error.value == "9"


def test_the_rules_hold_for_a_job_that_is_made_in_python_too():
    spec = job().spec
    with pytest.raises(ValueError, match="epochs and maxSteps exclude each other"):
        FineTuneJob.model_validate({
            "metadata": {"name": "made"},
            "spec": spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": 1.0,
                                                                                          "max_steps": 1})}),
        })


@pytest.mark.parametrize(("base", "patch", "merged"), [
    ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ({"a": 1}, {"a": None}, {}),
    ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
    ({"a": [1]}, {"a": [2, 3]}, {"a": [2, 3]}),
    ({"a": "text"}, {"a": {"b": 1, "c": None}}, {"a": {"b": 1}}),
    ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
])
def test_a_merge_patch_follows_rfc_7386(base, patch, merged):
    assert merge_patch(base, patch) == merged
