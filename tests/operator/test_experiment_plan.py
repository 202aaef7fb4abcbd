"""The decision about an experiment, on jobs as the apiserver stores them: as examples, and over random schedules."""

from __future__ import annotations

import copy
import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from finetune_api.definition.experiment_crd import experiment_crd
from finetune_api.definition.fitting_status import fitting_experiment_status
from finetune_api.rules import merge_patch
from finetune_operator.cluster.apiserver.decoding import usable
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.decide.experiment.plan import CreateOwned, plan_experiment
from finetune_operator.observed.experiment import ExperimentObservation, read_experiment, view_experiment
from finetune_operator.observed.job import view_job

from tests.api.experiments import experiment_document
from tests.operator.fuzz import Maker
from tests.operator.objects import NOW, SETTINGS, decide, raw_job, stamp

SKIP = {"runPolicy": {"preflight": "Skip"}}


class Simulation:
    """An experiment and its jobs, as an apiserver stores them and an operator changes them."""

    def __init__(self, *names, template=SKIP, **sections):
        body = experiment_document(**sections)
        body["spec"]["variants"] = _variants(*names)
        body["spec"]["template"]["spec"] = merge_patch(body["spec"]["template"]["spec"], template)
        body["metadata"] |= {"namespace": "team", "uid": "experiment", "generation": 1, "resourceVersion": "1",
                             "creationTimestamp": stamp(0)}
        self.raw: dict[str, Any] = {**body, "status": {}}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[str] = []
        self.gone: list[Decimal] = []
        self.finished: set[str] = set()
        self.passes = 0

    def decide(self):
        view = view_experiment(self.raw)
        return plan_experiment(ExperimentObservation(view, read_experiment(view), {
            name: view_job(raw) for name, raw in self.jobs.items()}), SETTINGS, NOW + timedelta(seconds=self.passes))

    def run(self, killed_after=None):
        """One pass; killed after some of its actions, before the status is written."""
        self.passes += 1
        decided = self.decide()
        for action in decided.actions[:killed_after]:
            self._act(action)
        if killed_after is not None and killed_after <= len(decided.actions):
            return
        self.raw["status"] = fitting_experiment_status(decided.status.model_dump(mode="json", exclude_none=True))
        for job in decided.deletions:
            self.delete(job.name)

    def settle(self):
        """Passes until nothing changes."""
        for _ in range(10):
            before = copy.deepcopy((self.jobs, self.raw["status"]))
            self.run()
            self.observe_jobs()
            if before == (self.jobs, self.raw["status"]):
                return
        raise AssertionError("passes without news go on changing something")

    def _act(self, action):
        if isinstance(action, CreateOwned):
            name = action.manifest["metadata"]["name"]
            assert name not in self.jobs
            assert name not in self.finished, "a finished job is bought again"
            self.created.append(name)
            metadata = {"uid": f"uid-{len(self.created)}", "generation": 1, "resourceVersion": "1",
                        "creationTimestamp": stamp(0)}
            self.jobs[name] = {**action.manifest, "metadata": {**action.manifest["metadata"], **metadata}}
        else:
            raw = merge_patch(self.jobs[action.job.name], action.patch)
            raw["metadata"]["generation"] += 1
            self.jobs[action.job.name] = raw

    def delete(self, name):
        raw = self.jobs.pop(name)
        self.gone.append(_spent(raw))
        if _ended(raw):
            self.finished.add(name)

    def observe_jobs(self):
        """What the operator writes about jobs that wait."""
        for raw in self.jobs.values():
            raw.setdefault("status", {})["observedGeneration"] = raw["metadata"]["generation"]

    def running(self):
        return [raw for raw in self.jobs.values() if not raw["spec"]["runPolicy"]["suspend"] and not _ended(raw)]

    def advance(self, raw, share, score=None):
        """A running job spends a share of its limit, and ends at a score."""
        limit = Decimal(raw["spec"].get("budget", {}).get("maxCost", 10))
        spent = _spent(raw) + max(limit - _spent(raw), Decimal(0)) * Decimal(str(share))
        status = {"phase": "Running", "startTime": stamp(0), "attempts": [
            {"number": 1, "reason": "Running", "startTime": stamp(0)}],
            "cost": {"spent": f"{spent:.4f}", "hourlyRate": "1"}}
        if score is not None:
            status |= {"phase": "Failed" if score < 0 else "Succeeded", "completionTime": stamp(60),
                       "evaluation": {"after": {"loss": score}}}
        raw["status"] = {**raw.get("status", {}), **status}

    def edit(self, **sections):
        if "variants" in sections:
            self.finished.clear()  # A variant that was removed and is added again is a new one.
        self.raw["spec"] = merge_patch(self.raw["spec"], sections)
        self.raw["metadata"]["generation"] += 1

    def job_of(self, variant):
        return next(raw for raw in self.jobs.values() if raw["metadata"]["labels"]["finetune.dev/variant"] == variant)

    def told(self):
        condition = next(one for one in self.raw["status"]["conditions"] if one["type"] == "Progressing")
        return self.raw["status"]["phase"], condition["reason"], condition["message"]


def _variants(*names):
    return [{"name": name, "patch": {"training": {"seed": number}}} for number, name in enumerate(names)]


def _spent(raw):
    return Decimal(raw.get("status", {}).get("cost", {}).get("spent", 0))


def _committed(raw):
    """What a job has spent, and what it may spend if it was started."""
    started = "startTime" in raw.get("status", {}) or not raw["spec"]["runPolicy"]["suspend"]
    return max(_spent(raw), Decimal(raw["spec"]["budget"]["maxCost"])) if started and not _ended(raw) else _spent(raw)


def _ended(raw):
    return "completionTime" in raw.get("status", {})


def _checked(cost):
    return {"phase": "Suspended", "preflight": {"generation": 1, "checkedHash": "0" * 64, "cost": cost}}


def test_no_job_is_started_before_all_are_checked():
    simulation = Simulation("one", "two", template={}, parallelism=2)
    simulation.settle()
    assert simulation.told() == ("Pending", "Preflight", "0 of 2 jobs are checked. No accelerator is requested before "
                                 "all are")
    simulation.job_of("one")["status"] |= _checked("1")
    simulation.settle()
    assert simulation.running() == []
    simulation.job_of("two")["status"] |= _checked("1")
    simulation.settle()
    assert len(simulation.running()) == 2
    simulation.edit(variants=_variants("one", "two", "three"), parallelism=3)
    simulation.settle()
    assert len(simulation.running()) == 2, "an added variant waits for its own check"
    messages = [row.get("message") for row in simulation.raw["status"]["runs"]]
    assert "the check before its start has not ended" in messages
    simulation.job_of("three")["status"] |= _checked("1")
    simulation.settle()
    assert len(simulation.running()) == 3


def test_a_variant_that_its_check_refuses_is_named_and_nothing_starts():
    simulation = Simulation("one", "two", template={})
    simulation.settle()
    simulation.job_of("one")["status"] |= _checked("1")
    simulation.job_of("two")["status"] |= {"conditions": [
        {"type": "Validated", "status": "False", "reason": "BadData", "message": "row 7 has no answer",
         "observedGeneration": 1, "lastTransitionTime": stamp(0)}]}
    simulation.settle()
    assert simulation.told() == ("Pending", "InvalidVariant", "variant two: row 7 has no answer")
    assert simulation.running() == []
    simulation.edit(variants=_variants("one"))
    simulation.settle()
    assert len(simulation.running()) == 1
    assert len(simulation.jobs) == 1, "the refused job is deleted with its variant"


def test_of_a_rung_only_the_most_expensive_that_can_go_on_count_for_the_estimate():
    simulation = Simulation("one", "two", template={}, budget={"maxCost": "10"}, earlyStop={"rungs": [0.5]})
    simulation.settle()
    for raw in simulation.jobs.values():
        raw["status"] |= _checked("4")  # Two rungs, and the one job of the better variant.
    simulation.settle()
    assert simulation.told()[1] == "EstimateAboveBudget"
    simulation.edit(budget={"maxCost": "12"})
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
                simulation.edit(variants=_variants(*names[:chance.randint(3, 6)]))
            case "suspend":
                simulation.edit(suspend=chance.random() < 0.3)
        assert len(simulation.running()) <= parallelism
        committed = sum((*simulation.gone, *map(_committed, simulation.jobs.values())), Decimal(0))
        assert committed <= budget, "more may be spent than the budget has"
    simulation.edit(suspend=False, variants=_variants(*names))
    for _ in range(30):
        simulation.settle()
        for raw in simulation.running():
            simulation.advance(raw, 1, 1.0)
    status = simulation.raw["status"]
    assert status["phase"] in ("Succeeded", "Failed")
    spent = sum((*simulation.gone, *map(_spent, simulation.jobs.values())), Decimal(0))
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
