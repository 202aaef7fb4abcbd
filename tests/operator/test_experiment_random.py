"""Random edits, kills and deletions at every moment: an experiment ends, and then nothing without news changes it."""

from __future__ import annotations

import copy
import json
import random
from decimal import Decimal

import pytest
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.messages import Outcome

from tests.operator.experiment_simulation import SKIP, Simulation, committed_by, has_ended, spent_by, variants

NAMES = ("a", "b", "c", "d", "e")
STEPS = 80


def as_stored(value):
    """A value as an apiserver stores it: a whole number has no fraction."""
    if isinstance(value, dict):
        return {key: as_stored(below) for key, below in value.items()}
    if isinstance(value, list):
        return [as_stored(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Walk(Simulation):
    """A simulation that checks at every action that neither the budget nor `parallelism` is passed by it."""

    def __init__(self, chance):
        self.chance = chance
        sections = {"budget": {"maxCost": chance.choice([None, "5", "20", "60"])}, "repeats": chance.randint(1, 2),
                    "earlyStop": chance.choice([None, {"rungs": [0.5]}, {"rungs": [0.2, 0.5]}])}
        super().__init__(*NAMES[:chance.randint(1, 5)], template={**SKIP, "training": {"maxSteps": 100}},
                         parallelism=chance.randint(1, 4), **sections)

    def committed(self):
        return sum((*self.gone, *map(committed_by, self.jobs.values())), Decimal(0))

    def _act(self, action):
        before, running = self.committed(), len(self.running())
        super()._act(action)
        spec = self.raw["spec"]
        limited = all("maxCost" in raw["spec"].get("budget", {}) for raw in self.jobs.values() if not has_ended(raw)
                      and not raw["spec"]["runPolicy"]["suspend"])
        if limited and "maxCost" in spec.get("budget", {}):
            assert self.committed() <= max(Decimal(spec["budget"]["maxCost"]), before), "a start passes the budget"
        if len(self.running()) > running:
            assert len(self.running()) <= spec["parallelism"]

    def run(self, killed_after=None):
        # A cache has no order.
        self.jobs = dict(self.chance.sample(list(self.jobs.items()), len(self.jobs)))
        super().run(killed_after)
        status = self.raw["status"] = as_stored(json.loads(json.dumps(self.raw["status"])))
        conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
        assert ("Finished" in conditions) is ("completionTime" in status)
        if "Finished" in conditions and conditions["Validated"] == "True":
            assert all(row["phase"] in ("Succeeded", "Failed", "Skipped") for row in status["runs"])

    def end_some(self):
        for raw in self.chance.sample(self.running(), self.chance.randint(0, len(self.running()))):
            self.advance(raw, self.chance.random(), self.chance.choice([-1.0, 1, 2.5, 3]))
            raw["status"]["evaluation"]["after"]["perplexity"] = 2.7

    def delete_one(self):
        self.run()  # What it cost is known until then.
        if self.jobs:
            self.delete(self.chance.choice(list(self.jobs)))

    def edit_variants(self):
        chosen = variants(*NAMES[:self.chance.randint(1, 5)])
        for one in chosen:
            if self.chance.random() < 0.2:
                one["patch"]["budget"] = {"maxCost": self.chance.choice(["1", "7", "0.00001", "100"])}
        self.edit(variants=chosen)

    def edit_and_correct(self):
        self.edit(sweep={"grid": {"training.nothing": [1]}})
        self.run()
        self.end_some()
        self.run()
        self.edit(sweep=None)

    def fail_reports(self):
        told = ReportedExperiment(outcome=Outcome.BAD_CONFIG, message="\x1b" * 5000)
        self.report_ends = self.chance.choices([(0, None), (1, None), (64, told), (137, None)], k=2)

    def step(self):
        chance = self.chance
        chance.choice([
            self.run, self.run, self.run, self.observe_jobs, lambda: self.run(killed_after=chance.randint(0, 3)),
            lambda: [self.advance(raw, chance.random()) for raw in self.running()], self.end_some, self.end_some,
            self.delete_one, self.edit_variants, self.edit_and_correct, self.end_reports, self.fail_reports,
            lambda: self.edit(suspend=chance.random() < 0.5),
            lambda: self.edit(parallelism=chance.randint(1, 4)),
            lambda: self.edit(budget={"maxCost": chance.choice([None, "0.5", "10", "33.333333", "100"])}),
            lambda: self.edit(rankBy=chance.choice([{"metric": "perplexity"}, {"metric": "loss", "tolerance": 0.5}])),
            lambda: self.edit(template={"spec": {"output": {"s3": {"region": chance.choice("xyz")}}}}),
        ])()


@pytest.mark.parametrize("seed", range(12))
def test_after_random_edits_kills_and_deletions_an_experiment_ends_and_stays_as_it_ended(seed):
    walk = Walk(random.Random(seed))
    for _ in range(STEPS):
        walk.step()
    walk.edit(suspend=False, variants=variants(*NAMES[:3]))
    while "completionTime" not in walk.raw["status"]:
        walk.settle()
        for raw in walk.running():
            walk.advance(raw, 1, 1.0)
        walk.passes += 3600
        assert walk.passes < 3600 * 100, walk.told()
    walk.settle()
    ended = copy.deepcopy(walk.raw["status"])
    spent = sum((*walk.gone, *map(spent_by, walk.jobs.values())), Decimal(0))
    assert abs(Decimal(ended["cost"]["spent"]) - spent) <= Decimal("0.01"), "no money is lost or counted twice"
    created, reports = len(walk.created), walk.reports
    for name in [name for name, raw in walk.jobs.items() if has_ended(raw)]:
        walk.delete(name)
        walk.settle()
    assert (len(walk.created), walk.reports) == (created, reports), "nothing is bought twice"
    for field in ("phase", "done", "ranking", "winner", "conclusion", "completionTime"):
        assert walk.raw["status"].get(field) == ended.get(field), field
    assert [kind for kind, _ in walk.children if kind == "Job"] == []
