"""The decision about an experiment, on jobs as the apiserver stores them: as examples, and over random schedules."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from finetune_api.definition.experiment_crd import experiment_crd
from finetune_api.definition.fitting_status import fitting_experiment_status
from finetune_operator.cluster.apiserver.decoding import usable
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.decide.experiment.plan import plan_experiment
from finetune_operator.observed.experiment import ExperimentObservation, read_experiment, view_experiment
from finetune_operator.telemetry.experiment_metrics import ExperimentCollector

from tests.operator.experiment_simulation import Simulation, checked, committed_by, spent_by, variants
from tests.operator.fuzz import Maker
from tests.operator.objects import NOW, SETTINGS, decide, raw_job, stamp


def test_no_job_is_started_before_all_are_checked():
    simulation = Simulation("one", "two", template={}, parallelism=2)
    simulation.settle()
    assert simulation.told() == ("Pending", "Preflight", "0 of 2 jobs are checked. No accelerator is requested before "
                                 "all are")
    simulation.job_of("one")["status"] |= checked("1")
    simulation.settle()
    assert simulation.running() == []
    simulation.job_of("two")["status"] |= checked("1")
    simulation.settle()
    assert len(simulation.running()) == 2
    simulation.edit(variants=variants("one", "two", "three"), parallelism=3)
    simulation.settle()
    assert len(simulation.running()) == 2, "an added variant waits for its own check"
    messages = [row.get("message") for row in simulation.raw["status"]["runs"]]
    assert "the check before its start has not ended" in messages
    simulation.job_of("three")["status"] |= checked("1")
    simulation.settle()
    assert len(simulation.running()) == 3


def test_an_added_variant_that_is_being_checked_does_not_keep_the_others_waiting():
    simulation = Simulation("one", "two", template={})
    simulation.settle()
    for raw in simulation.jobs.values():
        raw["status"] |= checked("1")
    simulation.settle()
    simulation.edit(variants=[{"name": "zero", "patch": {"training": {"seed": 9}}}, *variants("one", "two")])
    simulation.settle()
    simulation.advance(simulation.job_of("one"), 1, 1.0)
    simulation.settle()
    assert simulation.running() == [simulation.job_of("two")]
    assert simulation.raw["status"]["runs"][0]["message"] == "the check before its start has not ended"


def test_a_variant_that_its_check_refuses_is_named_and_nothing_starts():
    simulation = Simulation("one", "two", template={})
    simulation.settle()
    simulation.job_of("one")["status"] |= checked("1")
    simulation.job_of("two")["status"] |= {"conditions": [
        {"type": "Validated", "status": "False", "reason": "BadData", "message": "row 7 has no answer",
         "observedGeneration": 1, "lastTransitionTime": stamp(0)}]}
    simulation.settle()
    assert simulation.told() == ("Pending", "InvalidVariant", "variant two: row 7 has no answer")
    assert simulation.running() == []
    simulation.edit(variants=variants("one"))
    simulation.settle()
    assert len(simulation.running()) == 1
    assert len(simulation.jobs) == 1, "the refused job is deleted with its variant"


def test_a_result_that_is_published_already_is_taken_over_and_the_others_still_wait_for_their_checks():
    simulation = Simulation("one", "two", template={})
    simulation.settle()
    simulation.job_of("one")["status"] |= {"phase": "Succeeded", "startTime": stamp(0), "completionTime": stamp(0),
                                           "evaluation": {"after": {"loss": 1.0}}}
    simulation.settle()
    assert simulation.told()[1:] == ("Preflight", "1 of 2 jobs are checked. No accelerator is requested before all are")
    assert "startTime" not in simulation.raw["status"]
    simulation.job_of("two")["status"] |= checked("1")
    simulation.settle()
    (running,) = simulation.running()
    simulation.advance(running, 1, 0.5)
    simulation.settle()
    assert [one["variant"] for one in simulation.raw["status"]["ranking"]] == ["two", "one"]


def test_of_a_rung_only_the_most_expensive_that_can_go_on_count_for_the_estimate():
    simulation = Simulation("one", "two", template={}, budget={"maxCost": "9"}, earlyStop={"rungs": [0.5]})
    simulation.settle()
    for raw in simulation.jobs.values():
        raw["status"] |= checked("4")  # Two rungs, and the second half of the better variant's whole run.
    simulation.settle()
    assert simulation.told()[1] == "EstimateAboveBudget"
    simulation.edit(budget={"maxCost": "10"})
    simulation.settle()
    assert len(simulation.running()) == 1


def test_a_job_that_halving_gives_up_is_deleted_and_its_row_says_why():
    simulation = Simulation("one", "two", earlyStop={"rungs": [0.5]}, parallelism=4)
    simulation.settle()
    assert len(simulation.jobs) == 4
    for score, raw in enumerate(simulation.running()):
        simulation.advance(raw, 1, score + 1.0)
    simulation.settle()
    assert len(simulation.jobs) == 3
    (final,) = simulation.running()
    simulation.advance(final, 1, 0.5)
    simulation.settle()
    assert simulation.told()[:2] == ("Succeeded", "Finished")
    assert [row["reason"] for row in simulation.raw["status"]["runs"]].count("Halved") == 1
    assert simulation.raw["status"]["done"] == "4/4"


def test_the_cheapest_within_a_tolerance_wins_without_the_scores_of_rows():
    simulation = Simulation("one", "two", rankBy={"metric": "loss", "tolerance": 0.1}, parallelism=2)
    simulation.settle()
    for raw, share, score in zip(simulation.running(), (1, 0.5), (1.0, 1.05), strict=True):
        simulation.advance(raw, share, score)
    simulation.report_ends = [(64, None)]
    simulation.settle()
    assert simulation.raw["status"]["winner"] == "two"
    assert simulation.raw["status"]["ranking"][1]["verdict"].startswith("no scores of the same rows as one")


@pytest.mark.parametrize("seed", range(30))
def test_parallelism_and_budget_hold_and_nothing_is_bought_twice_over_random_schedules(seed):
    chance = random.Random(seed)
    names = ["a", "b", "c", "d", "e", "f"]
    budget, parallelism = Decimal(chance.choice([20, 60])), chance.randint(1, 4)
    simulation = Simulation(*names, parallelism=parallelism, budget={"maxCost": str(budget)})
    for _ in range(80):
        simulation.observe_jobs()
        match chance.choice(["pass", "pass", "killed", "advance", "advance", "end", "delete", "edit", "suspend"]):
            case "pass":
                simulation.run()
            case "killed":
                simulation.run(killed_after=chance.randint(0, 3))
            case "advance":
                for raw in simulation.running():
                    simulation.advance(raw, chance.random())
            case "end" if simulation.running():
                simulation.advance(chance.choice(simulation.running()), chance.random(), chance.choice([-1.0, 1.0]))
            case "delete" if simulation.jobs:
                simulation.run()  # Its cost is known until then.
                name = chance.choice(list(simulation.jobs))
                simulation.delete(name)
            case "edit":
                simulation.run()
                simulation.edit(variants=variants(*names[:chance.randint(3, 6)]))
            case "suspend":
                simulation.edit(suspend=chance.random() < 0.3)
        assert len(simulation.running()) <= parallelism
        committed = sum((*simulation.gone, *map(committed_by, simulation.jobs.values())), Decimal(0))
        assert committed <= budget, "more may be spent than the budget has"
    simulation.edit(suspend=False, variants=variants(*names))
    for _ in range(30):
        simulation.settle()
        for raw in simulation.running():
            simulation.advance(raw, 1, 1.0)
    status = simulation.raw["status"]
    assert status["phase"] in ("Succeeded", "Failed")
    spent = sum((*simulation.gone, *map(spent_by, simulation.jobs.values())), Decimal(0))
    assert abs(Decimal(status["cost"]["spent"]) - spent) <= Decimal("0.001"), "no money is lost or counted twice"


def test_a_random_experiment_raises_nothing_and_always_says_something():
    schema = experiment_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    maker = Maker(1)
    for number in range(150):
        raw: Any = {**Simulation("one").raw, "spec": maker.of(schema["spec"]), "status": maker.of(schema["status"])}
        if not isinstance(raw["spec"], dict) or not isinstance(raw["status"], dict):
            continue
        kept = usable(raw)
        assert kept is not None, number
        view = view_experiment(kept)
        decided = plan_experiment(ExperimentObservation(view, read_experiment(view), {}), SETTINGS, NOW)
        assert decided.status.conditions, number
        list(ExperimentCollector([kept].copy).collect())
        assert fitting_experiment_status(decided.status.model_dump(mode="json", exclude_none=True))["conditions"]


def test_a_held_job_is_checked_although_it_is_suspended_and_a_suspended_job_of_a_user_is_not():
    policy = {"preflight": "Required", "suspend": True}
    assert decide(raw_job(runPolicy=policy)).actions == ()
    held = raw_job(runPolicy=policy)
    held["metadata"]["annotations"] = {"finetune.dev/held-by-experiment": "true"}
    assert any(action.manifest["kind"] == "Job" for action in decide(held).actions)


def test_the_cache_tells_the_experiment_of_every_change_of_its_jobs():
    cache, told = Cache(), []
    cache.experiments.notify = told.append
    simulation = Simulation("one")
    simulation.run()
    cache.record(simulation.raw)
    (job,) = simulation.jobs.values()
    assert cache.record(job) == ("team", job["metadata"]["name"])
    view = cache.experiments.view(("team", "compare"))
    assert list(cache.experiments.jobs_of(view)) == [job["metadata"]["name"]]
    cache.record({**job, "metadata": {**job["metadata"], "resourceVersion": "2"}}, deleted=True)
    assert cache.experiments.jobs_of(view) == {}
    assert told == [("team", "compare")] * 3


def test_a_job_that_is_deleted_while_it_runs_is_created_again_and_resumes_from_its_checkpoints():
    simulation = Simulation("one", "two")
    simulation.settle()
    (running,) = simulation.running()
    simulation.advance(running, 0.5)
    simulation.run()
    name, uid = running["metadata"]["name"], running["metadata"]["uid"]
    simulation.delete(name)
    simulation.settle()
    policy = simulation.jobs[name]["spec"]["runPolicy"]
    assert (policy["resumeFrom"], policy["onMissingCheckpoint"]) == (f"{name}/{uid}", "TrainFromStart")
    assert simulation.job_of("two")["spec"]["runPolicy"].get("resumeFrom") is None
    assert policy["suspend"] is False, "it runs"
