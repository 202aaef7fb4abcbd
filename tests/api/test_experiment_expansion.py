"""From an experiment to its jobs."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
import yaml
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.experiment.expansion import job_name
from finetune_api.experiment.patch import patched
from finetune_api.rule import merge_patch

from tests.api.experiments import errors_with, experiment, experiment_document, experiment_errors

QLORA: dict[str, Any] = {"template": {"spec": {
    "method": {"type": "LoRA", "quantization": "nf4", "lora": {"rank": 8, "alpha": 32}}, "training": {"epochs": 2}}}}


def test_each_variant_is_the_template_with_its_patch():
    found = experiment(**QLORA, variants=[
        {"name": "qlora"}, {"name": "qdora", "patch": {"method": {"type": "DoRA", "dora": {"rank": 4}}}},
        {"name": "long", "patch": {"training": {"epochs": 3}}}])
    qlora, qdora, long = (run.job.spec for run in found.runs)
    assert [run.variant for run in found.runs] == ["qlora", "qdora", "long"]
    assert (qlora.method.display_name, qdora.method.display_name) == ("QLoRA", "QDoRA")
    assert (qlora.method.lora.rank, qdora.method.dora.rank, qdora.method.lora) == (8, 4, None)
    assert (qlora.training.epochs, long.training.epochs) == (2, 3)


@pytest.mark.parametrize(("spec", "patch", "result"), [
    ({"training": {"epochs": 2, "seed": 1}}, {"training": {"maxSteps": 9}}, {"training": {"maxSteps": 9, "seed": 1}}),
    ({"training": {"epochs": 2}}, {"training": {"epochs": 2, "maxSteps": 9}},
     {"training": {"epochs": 2, "maxSteps": 9}}),
    ({"dataset": {"evaluationSplit": "test"}}, {"dataset": {"evaluationFraction": 0.5}},
     {"dataset": {"evaluationFraction": 0.5}}),
    ({"dataset": {"prompt": "p", "completion": "c"}}, {"dataset": {"messages": "chat"}},
     {"dataset": {"messages": "chat"}}),
    ({"dataset": {"messages": "chat"}}, {"dataset": {"prompt": "p", "completion": "c"}},
     {"dataset": {"prompt": "p", "completion": "c"}}),
    ({"method": {"type": "LoRA", "lora": {"rank": 8}}}, {"method": {"type": "DoRA"}}, {"method": {"type": "DoRA"}}),
    ({"method": {"type": "LoRA", "lora": {"rank": 8}}}, {"method": {"quantization": "nf4"}},
     {"method": {"type": "LoRA", "lora": {"rank": 8}, "quantization": "nf4"}}),
    ({"method": {"type": "LoRA", "lora": {"rank": 8}}}, {"method": {"lora": None}}, {"method": {"type": "LoRA"}}),
], ids=str)
def test_a_patch_removes_what_excludes_it_and_keeps_the_rest(spec, patch, result):
    assert patched(spec, patch) == result


def test_a_jobs_name_is_short_and_follows_from_everything_that_decides_the_result():
    def names(**sections):
        return [run.name for run in experiment(**sections).runs]

    first = names(**QLORA)
    assert first == names(**QLORA, budget={"maxCost": 3}, parallelism=4)
    assert first == names(**merge_patch(QLORA, {"template": {"spec": {"compute": {"accelerator": "cpu"}}}}))
    assert first != names(**merge_patch(QLORA, {"template": {"spec": {"training": {"seed": 7}}}}))
    assert first != names(**QLORA, variants=[{"name": "other"}])
    longest = job_name("e" * 40, "v" * 27, "0" * 64)
    assert len(longest) == 40
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", longest)


def test_the_plain_job_is_the_validated_one():
    (run,) = experiment(**QLORA).runs
    assert parse_job(run.document) == run.job


def test_a_grid_crosses_every_variant_and_a_point_keeps_its_name_when_values_come():
    grid = {"training.learningRate": [0.0001, 0.001], "method.lora.rank": [8]}
    runs = experiment(variants=[{"name": "one"}, {"name": "two"}], sweep={"grid": grid}).runs
    assert [(run.variant.partition("-")[0], run.settings) for run in runs] == [
        ("one", "training.learningRate=0.0001, method.lora.rank=8"),
        ("one", "training.learningRate=0.001, method.lora.rank=8"),
        ("two", "training.learningRate=0.0001, method.lora.rank=8"),
        ("two", "training.learningRate=0.001, method.lora.rank=8")]
    assert [run.job.spec.training.learning_rate for run in runs[:2]] == [0.0001, 0.001]
    grid["method.lora.rank"] = [4, 8]
    more = experiment(variants=[{"name": "one"}, {"name": "two"}], sweep={"grid": grid}).runs
    assert {run.name for run in runs} < {run.name for run in more}


def test_a_sweep_needs_no_variants_and_a_point_that_is_drawn_twice_counts_once():
    search = {"samples": 40, "fields": {"method.lora.rank": {"values": [4, 8]}}}
    runs = experiment(variants=None, sweep={"random": search}).runs
    assert sorted(run.job.spec.method.lora.rank for run in runs) == [4, 8]
    assert all(run.variant.startswith("template-") for run in runs)


def test_random_search_stays_in_its_range_and_gives_whole_numbers_to_whole_fields():
    fields = {"training.learningRate": {"minimum": 1e-5, "maximum": 1e-2, "scale": "log"},
              "method.lora.rank": {"minimum": 4, "maximum": 6}, "training.warmup": {"minimum": 0, "maximum": 0.5}}

    def drawn(samples, seed=0):
        runs = experiment(variants=None, sweep={"random": {"samples": samples, "seed": seed, "fields": fields}}).runs
        return [(spec.training.learning_rate, spec.method.lora.rank, spec.training.warmup)
                for spec in (run.job.spec for run in runs)]

    points = drawn(60)
    assert points == drawn(60)
    assert points != drawn(60, seed=1)
    assert points[:20] == drawn(20), "more samples change none of the earlier ones"
    rates, ranks, warmups = zip(*points, strict=True)
    assert {type(rank) for rank in ranks} == {int}
    assert set(ranks) == {4, 5, 6}
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 15 <= sum(rate < 10**-3.5 for rate in rates) <= 45, "half of the draws are below the middle of the logarithm"
    assert all(0 <= warmup <= 0.5 for warmup in warmups)


def test_repeats_have_other_seeds():
    runs = experiment(repeats=3, template={"spec": {"training": {"seed": 5}}}).runs
    assert [(run.repeat, run.seed) for run in runs] == [(0, 5), (1, 6), (2, 7)]
    assert len({run.name for run in runs}) == 3


def test_rungs_are_parts_of_the_whole_job_that_come_first_and_each_resumes_from_the_one_before():
    variants = [{"name": "epochs"}, {"name": "steps", "patch": {"training": {"maxSteps": 10}}}]
    runs = experiment(**QLORA, variants=variants, repeats=2, earlyStop={"rungs": [0.1, 0.5]}).runs
    assert [(run.variant, run.rung, run.share) for run in runs] == [
        ("epochs", 0, 0.1), ("steps", 0, 0.1), ("epochs", 1, 0.5), ("steps", 1, 0.5),
        ("epochs", None, 1), ("epochs", None, 1), ("steps", None, 1), ("steps", None, 1)]
    first, second, last = (next(run for run in runs if (run.variant, run.rung) == ("steps", rung))
                           for rung in (0, 1, None))
    policies = [run.job.spec.run_policy for run in (first, second, last)]
    assert [(one.stop_after, one.resume_from) for one in policies] == [
        (0.1, None), (0.5, first.name), (None, second.name)]
    assert {one.on_missing_checkpoint for one in policies[1:]} == {"TrainFromStart"}
    assert len({spec_hash(resolve_defaults(run.job.spec)) for run in (first, second, last)}) == 1, "checkpoints fit"
    assert runs[-1].job.spec.run_policy.resume_from is None, "another seed has no rung"
    assert [run.part for run in (first, second, last, runs[-1])] == [
        "0.1 of the steps", "from 0.1 of the steps to 0.5", "from 0.5 of the steps to the end", ""]
    assert [run.own_share for run in (first, second, last, runs[-1])] == [
        Decimal("0.1"), Decimal("0.4"), Decimal("0.5"), 1]
    assert [run.own_part(Decimal(10)) for run in (first, second, last, runs[-1])] == [10, 8, 5, 10]


def test_early_stop_changes_no_name_of_a_job_that_is_trained_to_its_end():
    plain = experiment(**QLORA, repeats=2).runs
    halved = experiment(**QLORA, repeats=2, earlyStop={"rungs": [0.5]}).runs
    assert [run.name for run in halved if run.rung is None] == [run.name for run in plain]
    assert len({run.name for run in halved}) == 3
    other = experiment(**QLORA, earlyStop={"rungs": [0.25]}).runs
    assert other[0].name not in {run.name for run in halved}


def test_a_job_that_stops_after_another_share_has_another_name():
    names = {experiment(template={"spec": {"runPolicy": policy}}).runs[0].name
             for policy in ({}, {"stopAfter": 0.25}, {"stopAfter": 0.5})}
    assert len(names) == 3


def test_early_stop_and_a_share_of_the_templates_own_exclude_each_other():
    (error,) = errors_with(template={"spec": {"runPolicy": {"stopAfter": 0.5}}}, earlyStop={"rungs": [0.25]})
    assert error.endswith("spec.runPolicy.stopAfter is 0.5: spec.earlyStop of the experiment sets it for each rung: "
                          "remove one of the two")


def test_an_error_names_variant_field_and_cure_with_its_line():
    text = yaml.safe_dump(experiment_document(**QLORA, variants=[
        {"name": "good"}, {"name": "wrong", "patch": {"method": {"type": "DoRA", "lora": {"rank": 4}}}},
        {"name": "odd", "patch": {"training": {"batchSize": 8, "microBatchSize": 9}}}]), sort_keys=False)
    lines = text.splitlines()
    assert experiment_errors(text) == [
        f"line {lines.index('        lora:', 20) + 1}: variant wrong: spec.method.lora is "
        '{"rank": 4, "alpha": 32}: the block lora belongs to type LoRA: change the type, or name the block after it',
        f"line {lines.index('        microBatchSize: 9') + 1}: variant odd: spec.training.microBatchSize is 9: "
        "microBatchSize must not exceed batchSize (16 by default): lower microBatchSize, or raise batchSize"]


def test_what_is_wrong_with_every_variant_is_reported_once_as_the_templates():
    errors = errors_with(template={"spec": {"training": {"microBatchSize": 17}}},
                         variants=[{"name": "one"}, {"name": "two"}])
    assert len(errors) == 1
    assert "spec.template.spec.training.microBatchSize is 17" in errors[0]


@pytest.mark.parametrize(("sections", "message"), [
    ({"sweep": {"grid": {"training.seed": list(range(60)), "method.lora.rank": [4, 8]}}}, "the grid has 120 points"),
    ({"sweep": {"grid": {"training.seed": list(range(60))}}, "variants": [{"name": "one"}, {"name": "two"}]},
     "2 variants × 60 points are too many"),
    ({"sweep": {"grid": {"training.learningRate": [x / 1000 for x in range(1, 35)]}}, "repeats": 3},
     "are 102 jobs; an experiment has at most 100"),
    ({"sweep": {"grid": {"training.learningrate": [1]}}},
     "spec.sweep.grid.training.learningrate: no field training.learningrate; the fields there are: epochs"),
    ({"rankBy": {"metric": "fieldsMatch"}},
     "variant only does not measure it: it needs answers as JSON: set the template's dataset.answerFormat.type to"),
    ({"rankBy": {"metric": "answerAccuracy"}}, "variant only does not measure it: only a job with method.type: ReFT"),
    ({"rankBy": {"metric": "schemaValid"}, "variants": [{"name": "one", "patch": {
        "dataset": {"answerFormat": {"type": "json"}}}}]}, "it needs a schema: write the template's dataset.answer"),
    ({"rankBy": {"metric": "loss"},
      "variants": [{"name": "one", "patch": {"evaluation": {"metrics": ["perplexity"]}}}]},
     "variant one does not measure it: add it to the template's evaluation.metrics, or rank by a metric that every"),
    ({"variants": [{"name": "one", "patch": {"output": None}}]}, "variant one: spec.output: missing"),
    ({"variants": [{"name": "one", "patch": {"training": {"seed": "x"}}}]},
     'variant one: spec.training.seed is "x": write a whole number'),
], ids=str)
def test_an_experiment_that_cannot_run_says_why(sections, message):
    errors = errors_with(**sections)
    assert any(message in error for error in errors), errors
