"""What holds for an experiment whatever is edited, deleted or forgotten: its money, its results and its end."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_operator.settings import Accelerator

from tests.operator.experiment_simulation import Simulation, checked, has_ended, variants
from tests.operator.objects import SETTINGS, stamp

REFUSED = {"conditions": [{"type": "Validated", "status": "False", "reason": "BadData", "message": "row 7",
                           "observedGeneration": 1, "lastTransitionTime": stamp(0)}]}


def running(*names, **sections):
    simulation = Simulation(*names, **{"parallelism": len(names), **sections})
    simulation.settle()
    return simulation


def finished(*names, score=1.0, **sections):
    simulation = running(*names, **sections)
    for raw in simulation.running():
        simulation.advance(raw, 1, score)
    simulation.settle()
    return simulation


def status_of(simulation):
    return simulation.raw["status"]


def ranked(simulation):
    return [one["variant"] for one in status_of(simulation)["ranking"]]


def test_a_whole_number_is_the_same_score_in_the_job_and_in_the_status_when_the_job_is_gone():
    simulation = finished("one", "two", score=1)  # An apiserver writes 1.0 as 1.
    simulation.delete(next(iter(simulation.jobs)))
    simulation.settle()
    assert simulation.told()[:2] == ("Succeeded", "Finished")
    assert simulation.reports == 1, "the report of these results is written"


def test_equal_variants_rank_in_their_order_whatever_the_order_of_the_jobs():
    simulation = running("one", "two", "three")
    for raw in simulation.running():
        simulation.advance(raw, 0.5, 1.0)
    for _ in range(2):
        simulation.jobs = dict(reversed(simulation.jobs.items()))
        simulation.run()
        assert ranked(simulation) == ["one", "two", "three"]


def test_a_score_of_a_deleted_job_is_not_compared_with_one_by_another_metric():
    simulation = running("one", "two")
    for raw in simulation.running():
        simulation.advance(raw, 1, 1.0)
        raw["status"]["evaluation"]["after"]["perplexity"] = 2.7
    simulation.settle()
    assert status_of(simulation)["metric"] == "loss"
    simulation.delete(next(iter(simulation.jobs)))
    simulation.settle()
    assert ranked(simulation) == ["one", "two"]
    simulation.edit(rankBy={"metric": "perplexity"})
    simulation.settle()
    assert [(one["variant"], one["score"]) for one in status_of(simulation)["ranking"]] == [("two", 2.7)]
    assert status_of(simulation)["runs"][0]["message"] == "the job is gone, and its perplexity with it"
    assert len(simulation.jobs) == 1, "it is not trained again"


def test_more_ended_jobs_of_removed_variants_than_the_status_lists_hide_no_other_and_no_money():
    names = [f"v{number}" for number in range(100)]
    simulation = running(*names)
    for seed in (0, 1000, 2000):
        simulation.edit(variants=[{"name": name, "patch": {"training": {"seed": seed + number}}}
                                  for number, name in enumerate(names)])
        simulation.settle()
        for raw in simulation.running():
            simulation.advance(raw, 1, 1.0)
        simulation.settle()
    status = status_of(simulation)
    assert [row["reason"] for row in status["runs"]].count("Removed") == 100
    assert len([row for row in status["runs"] if row["variant"] == "v0" and row["phase"] == "Succeeded"]) >= 1
    assert len(simulation.jobs) == 200
    assert Decimal(status["cost"]["spent"]) == 3000


def test_what_a_job_at_its_own_limit_cannot_spend_goes_to_the_others_at_once():
    simulation = running(budget={"maxCost": "90"}, parallelism=3)
    simulation.edit(variants=[{"name": "one", "patch": {"budget": {"maxCost": "30"}}}, {"name": "two"},
                              {"name": "three"}])
    simulation.settle()
    simulation.advance(simulation.job_of("three"), 0.1, 1.0)
    simulation.run()
    assert simulation.job_of("two")["spec"]["budget"]["maxCost"] == "57.0000"
    simulation.observe_jobs()
    assert simulation.decide().actions == ()


def test_a_job_that_was_started_in_a_killed_pass_is_paid_for_when_its_variant_is_removed():
    simulation = Simulation("one", "two", budget={"maxCost": "90"}, parallelism=2)
    simulation.hold()
    simulation.run(killed_after=1)
    (started,) = simulation.running()
    limit = Decimal(started["spec"]["budget"]["maxCost"])
    simulation.edit(variants=variants("one", "two")[1:])
    simulation.run()
    (other,) = [raw for raw in simulation.running() if raw is not started]
    assert Decimal(other["spec"]["budget"]["maxCost"]) == 90 - limit


def test_a_row_that_another_release_wrote_does_not_hide_the_others():
    simulation = finished("one", "two")
    simulation.delete(next(iter(simulation.jobs)))
    simulation.settle()
    rows = status_of(simulation)["runs"]
    status_of(simulation)["runs"] = [{**rows[0], "phase": "Archived"}, rows[1], "nonsense", {"variant": "lost"}]
    simulation.settle()
    assert [row["phase"] for row in status_of(simulation)["runs"]] == ["Failed", "Succeeded"]
    assert Decimal(status_of(simulation)["cost"]["spent"]) == 20
    assert len(simulation.jobs) == 1, "no finished job is created again"


def test_after_a_suspension_no_more_jobs_run_than_the_new_parallelism():
    simulation = running("one", "two", "three")
    for raw in simulation.running():
        simulation.advance(raw, 0.1)
    simulation.edit(suspend=True)
    simulation.settle()
    simulation.edit(suspend=False, parallelism=1)
    ended = 0
    while ended < 3:
        simulation.settle()
        (going,) = simulation.running()
        simulation.advance(going, 1, 1.0)
        ended += 1
    simulation.settle()
    assert simulation.told()[0] == "Succeeded"


def test_a_job_that_its_check_refused_is_deleted_with_its_variant():
    simulation = Simulation("one", template={})
    simulation.settle()
    simulation.job_of("one")["status"] |= checked("1")
    simulation.settle()
    simulation.edit(variants=variants("one", "two"))
    simulation.settle()
    simulation.job_of("two")["status"] |= REFUSED
    simulation.settle()
    assert [row["phase"] for row in status_of(simulation)["runs"]] == ["Running", "Failed"]
    simulation.edit(variants=variants("one"))
    simulation.settle()
    assert len(simulation.jobs) == 1
    assert len(status_of(simulation)["runs"]) == 1


@pytest.mark.parametrize("budget", [{}, {"maxCost": "10"}])
def test_an_experiment_that_is_over_stays_so_when_it_is_suspended(budget):
    simulation = running("one", "two", parallelism=1, budget=budget)
    while simulation.running():
        (raw,) = simulation.running()
        raw["spec"]["budget"] = {"maxCost": "10"}
        simulation.advance(raw, 1, 1.0)  # With a budget nothing is left for the second job.
        simulation.settle()
    before = status_of(simulation)
    assert before["phase"] == "Succeeded"
    for suspend in (True, False):
        simulation.edit(suspend=suspend)
        simulation.settle()
        after = status_of(simulation)
        assert all(after[name] == before[name] for name in ("phase", "done", "ranking", "completionTime", "runs"))
    assert simulation.reports == 1


def test_other_settings_do_not_refuse_an_experiment_whose_jobs_have_ended():
    template = {"runPolicy": {"preflight": "Skip"}, "compute": {"accelerator": "odd"}}
    simulation = Simulation("one", "two", template=template, parallelism=2)
    simulation.settings = SETTINGS.model_copy(update={"accelerators": {"odd": Accelerator()}})
    simulation.settle()
    for raw in simulation.running():
        simulation.advance(raw, 1, 1.0)
    simulation.run()
    simulation.settings = SETTINGS
    simulation.settle()
    assert simulation.told()[:2] == ("Succeeded", "Finished")
    assert all(one["type"] != "Stalled" for one in status_of(simulation)["conditions"])


def test_an_experiment_that_ended_is_not_refused_by_a_release_that_reads_its_spec_otherwise():
    simulation = finished("one", "two")
    before = status_of(simulation)
    simulation.raw["spec"]["template"]["spec"]["unknown"] = 1  # No edit: the generation is the same.
    simulation.settle()
    assert status_of(simulation) == before


def test_an_edit_that_is_refused_neither_hides_what_jobs_do_nor_prevents_a_suspension():
    simulation = running("one", "two")
    simulation.edit(sweep={"grid": {"training.nothing": [1]}})
    simulation.settle()
    assert simulation.told()[1] == "InvalidVariant"
    simulation.advance(simulation.job_of("one"), 1, 1.0)
    simulation.settle()
    rows = status_of(simulation)["runs"]
    assert [(row["phase"], row.get("after")) for row in rows] == [("Succeeded", 1.0), ("Running", None)]
    assert Decimal(status_of(simulation)["cost"]["spent"]) == 10
    simulation.delete(simulation.job_of("one")["metadata"]["name"])
    simulation.edit(suspend=True)
    simulation.settle()
    assert simulation.running() == []
    simulation.edit(suspend=False, sweep=None)
    simulation.settle()
    (left,) = simulation.running()
    assert (left["metadata"]["labels"]["finetune.dev/variant"], has_ended(left)) == ("two", False)


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_edit_that_decides_no_result_reaches_the_jobs_that_wait_for_their_start(has_begun):
    template = {"output": {"s3": {"credentialsSecretRef": {"name": "wrong"}}}}
    simulation = Simulation("one", "two", template=template, parallelism=1)
    simulation.settle()
    if has_begun:
        simulation.job_of("one")["status"] |= checked("1")
        simulation.job_of("two")["status"] |= checked("1")
        simulation.settle()
    simulation.job_of("two")["status"] |= REFUSED
    simulation.settle()
    names, before = set(simulation.jobs), simulation.job_of("one")
    simulation.edit(template={"spec": {"output": {"s3": {"credentialsSecretRef": {"name": "right"}}}}})
    simulation.settle()
    assert set(simulation.jobs) == names
    assert simulation.job_of("two")["spec"]["output"]["s3"]["credentialsSecretRef"]["name"] == "right"
    assert (simulation.job_of("one") is before) is has_begun, "a job that runs goes on as it is"
    for variant in ("one", "two"):
        simulation.job_of(variant)["status"] |= checked("1")
    for _ in range(2):
        simulation.settle()
        (going,) = simulation.running()
        simulation.advance(going, 1, 1.0)
    simulation.settle()
    assert simulation.told()[2] == "2 jobs: 2 succeeded. one wins"
