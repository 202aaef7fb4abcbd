"""What happens next to an experiment: as a table, and over random schedules."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from finetune_api.experiment.halving import survivors
from finetune_api.experiment.observed import ObservedExperiment, ObservedJob
from finetune_api.experiment.plan import CreateJob, LimitJob, ResumeJob, StopJob, SuspendJob, plan
from finetune_api.experiment.status import ExperimentReason, RunPhase
from finetune_api.rule import merge_patch
from finetune_api.spec.evaluation import Metric

from tests.api.experiments import experiment

RUNNING, SUCCEEDED, FAILED = RunPhase.RUNNING, RunPhase.SUCCEEDED, RunPhase.FAILED
THREE = [{"name": "a"}, {"name": "b"}, {"name": "c"}]


def decide(jobs=None, spent_before=0, estimates=None, **sections):
    """The plan of an experiment with three variants; `jobs` by the variant's name."""
    found = experiment(**merge_patch({"variants": THREE}, sections))
    names = {run.variant: run.name for run in found.runs}
    observed = ObservedExperiment(
        {names.get(variant, variant): job for variant, job in (jobs or {}).items()}, Decimal(spent_before),
        {names[variant]: Decimal(amount) for variant, amount in (estimates or {}).items()})
    return plan(found.resource.spec, found.runs, observed), {name: variant for variant, name in names.items()}


def created(decided, variants):
    return [(variants[action.run.name], action.max_cost) for action in decided.actions if isinstance(action, CreateJob)]


def job(phase=RUNNING, spent="0", limit=None, **more):
    return ObservedJob(phase, Decimal(spent), None if limit is None else Decimal(limit), **more)


def test_jobs_start_in_order_as_many_as_parallelism_allows():
    decided, variants = decide(parallelism=2)
    assert created(decided, variants) == [("a", None), ("b", None)]
    (waiting,) = decided.not_started.values()
    assert (waiting.phase, waiting.reason) == (RunPhase.PENDING, ExperimentReason.WAITING)
    assert not decided.finished
    decided, variants = decide({"a": job(FAILED), "b": job()}, parallelism=2)
    assert created(decided, variants) == [("c", None)]


def test_an_experiment_is_finished_when_every_job_has_ended():
    ended = {"a": job(SUCCEEDED), "b": job(FAILED)}
    assert not decide({**ended, "c": job()})[0].finished
    decided = decide({**ended, "c": job(SUCCEEDED)})[0]
    assert (decided.finished, decided.actions) == (True, ())


def test_each_job_gets_a_share_of_what_is_left():
    decided, variants = decide(budget={"maxCost": 9})
    assert created(decided, variants) == [("a", 3)]
    decided, variants = decide({"a": job(SUCCEEDED, "1")}, budget={"maxCost": 9}, parallelism=2)
    assert created(decided, variants) == [("b", 4), ("c", 4)]
    decided, variants = decide({"a": job(RUNNING, "1", "3")}, budget={"maxCost": 9}, parallelism=2)
    assert created(decided, variants) == [("b", 3)]


def test_money_that_removed_jobs_have_spent_is_gone():
    decided, variants = decide({"old": job(SUCCEEDED, "2")}, spent_before=1, budget={"maxCost": 9})
    assert created(decided, variants) == [("a", 2)]


def test_a_job_of_its_own_limit_gets_no_more():
    limited = [{"name": "a", "patch": {"budget": {"maxCost": 1}}}, *THREE[1:]]
    decided, variants = decide(variants=limited, budget={"maxCost": 9}, parallelism=2)
    assert created(decided, variants) == [("a", 1), ("b", 4)]


def test_a_job_gets_its_estimate_and_one_that_cannot_be_paid_is_never_started():
    decided, variants = decide(estimates={"a": 6, "b": 2, "c": 1}, budget={"maxCost": 9}, parallelism=3)
    assert created(decided, variants) == [("a", 6), ("b", 2), ("c", 1)]
    decided, variants = decide(estimates={"a": 10, "b": 2, "c": 1}, budget={"maxCost": 9})
    assert created(decided, variants) == [("b", Decimal("4.5"))]
    (skipped,) = [one for name, one in decided.not_started.items() if variants[name] == "a"]
    assert (skipped.phase, skipped.reason) == (RunPhase.SKIPPED, ExperimentReason.BUDGET_SPENT)
    assert skipped.message == ("9 of spec.budget.maxCost is left; it is estimated to cost 10. Raise "
                               "spec.budget.maxCost")
    decided, variants = decide({"b": job(RUNNING, "1", "4")}, estimates={"a": 8}, budget={"maxCost": 9}, parallelism=2)
    assert ("a" not in dict(created(decided, variants)))
    (waits,) = [one for name, one in decided.not_started.items() if variants[name] == "a"]
    assert waits.phase is RunPhase.PENDING, "the running job may leave enough"


def test_nothing_starts_and_the_experiment_ends_when_the_money_is_spent():
    decided, _ = decide({"a": job(SUCCEEDED, "9.01")}, budget={"maxCost": 9})
    assert (decided.actions, decided.finished) == ((), True)
    assert {one.reason for one in decided.not_started.values()} == {ExperimentReason.BUDGET_SPENT}


def test_the_last_job_gets_everything_that_is_left():
    decided, variants = decide({"a": job(SUCCEEDED, "1"), "b": job(SUCCEEDED, "1"), "c": job(RUNNING, "1", "3")},
                               budget={"maxCost": 9})
    assert [(variants[one.name], one.max_cost) for one in decided.actions] == [("c", 7)]
    again, _ = decide({"a": job(SUCCEEDED, "1"), "b": job(SUCCEEDED, "1"), "c": job(RUNNING, "2", "7")},
                      budget={"maxCost": 9})
    assert again.actions == (), "a plan that was carried out changes nothing"


def test_a_lowered_budget_lowers_the_limits_of_running_jobs_and_a_removed_one_frees_them():
    running = {"a": job(RUNNING, "1", "3"), "b": job(RUNNING, "2", "3"), "c": job(SUCCEEDED, "1")}
    decided, variants = decide(running, budget={"maxCost": "5.5"}, parallelism=2)
    assert [(variants[one.name], one.max_cost) for one in decided.actions if isinstance(one, LimitJob)] == [
        ("a", 2), ("b", Decimal("2.5"))]
    decided, variants = decide(running, budget={"maxCost": "3"}, parallelism=2)
    assert [(variants[one.name], one.max_cost) for one in decided.actions] == [("a", 1), ("b", 2)]
    decided, variants = decide(running)
    assert [(variants[one.name], one.max_cost) for one in decided.actions] == [("a", None), ("b", None)]


def test_suspend_holds_everything_and_resume_goes_on_with_what_it_held():
    decided, variants = decide({"a": job()}, suspend=True, parallelism=3)
    assert [(type(one), variants[one.name]) for one in decided.actions] == [(SuspendJob, "a")]
    assert {one.reason for one in decided.not_started.values()} == {ExperimentReason.SUSPENDED}
    assert not decided.finished
    held = job(RunPhase.SUSPENDED, held=True)
    assert decide({"a": held}, suspend=True)[0].actions == ()
    decided, variants = decide({"a": held, "b": job(RunPhase.SUSPENDED)}, parallelism=2)
    assert [(type(one), variants[one.name]) for one in decided.actions] == [(ResumeJob, "a")]


def test_a_removed_variant_is_stopped_only_if_it_runs():
    decided, variants = decide({"old": job(RUNNING, "1", "3"), "older": job(SUCCEEDED)}, budget={"maxCost": 9})
    assert [one.name for one in decided.actions if isinstance(one, StopJob)] == ["old"]
    assert created(decided, variants) == [], "it holds its node until it is gone"


SCORED: dict[str, Any] = {"rankBy": {"metric": "exactMatch"}, "earlyStop": {"rungs": [0.25], "keep": 0.5}}


@pytest.mark.parametrize(("metric", "kept"), [(Metric.EXACT_MATCH, {"b", "c"}), (Metric.LOSS, {"a", "c"})])
def test_the_better_half_rounded_up_survives_a_rung(metric, kept):
    assert survivors({"a": 0.1, "b": 0.9, "c": 0.5}, 0.5, metric) == kept
    assert survivors({"a": None, "b": float("nan"), "c": 0.5}, 0.9, metric) == {"c"}


def test_full_runs_wait_for_the_rung_and_only_the_survivors_start():
    found = experiment(variants=THREE, **SCORED, parallelism=3)
    rung, full = found.runs[:3], found.runs[3:]

    def decided(jobs):
        return plan(found.resource.spec, found.runs, ObservedExperiment(jobs))

    first = decided({})
    assert [one.run.name for one in first.actions] == [run.name for run in rung]
    assert {first.not_started[run.name].reason for run in full} == {ExperimentReason.WAITING}
    scores = {rung[0].name: job(SUCCEEDED, "1", score=0.1), rung[1].name: job(SUCCEEDED, "1", score=0.9)}
    assert decided({**scores, rung[2].name: job()}).actions == ()
    second = decided({**scores, rung[2].name: job(FAILED, "1")})
    assert [one.run.variant for one in second.actions] == ["b", "a"][::-1]
    third = decided({**scores, rung[2].name: job(SUCCEEDED, "1", score=0.5)})
    assert [one.run.variant for one in third.actions] == ["b", "c"]
    (gone,) = third.not_started.values()
    assert (gone.phase, gone.reason) == (RunPhase.SKIPPED, ExperimentReason.HALVED)
    assert third.saved == 3, "a quarter of a run cost 1, and the rest is not trained"


def test_a_rung_and_what_follows_it_get_money_for_the_steps_that_each_trains_itself():
    found = experiment(variants=[{"name": "a"}, {"name": "b"}], **{**SCORED, "earlyStop": {"rungs": [0.2, 0.5]}},
                       budget={"maxCost": 13})
    a, b = (run.name for run in found.runs[:2])

    def limit(jobs, **estimates):
        observed = ObservedExperiment(jobs, estimates={run.name: Decimal(estimates["whole"]) for run in found.runs
                                                       if run.rung is None} if estimates else {})
        (start,) = [one for one in plan(found.resource.spec, found.runs, observed).actions
                    if isinstance(one, CreateJob)]
        return start.run.part, start.max_cost

    # Weights: 0.2 each for a and b, and half of 2 x 0.3 and 2 x 0.5.
    assert limit({}) == ("0.2 of the steps", Decimal("2.1666"))
    first = {a: job(SUCCEEDED, "1", score=0.1), b: job(SUCCEEDED, "1", score=0.9)}
    assert limit(first) == ("from 0.2 of the steps to 0.5", 6), "0.3 of 0.55: half of the rest waits"
    second = {**first, found.runs[3].name: job(SUCCEEDED, "1", score=0.9)}
    assert limit(second, whole="19") == ("from 0.5 of the steps to the end", 10), "half of the 19 it would cost whole"


def test_an_experiment_whose_rung_has_no_result_ends():
    found = experiment(variants=THREE, **SCORED)
    decided = plan(found.resource.spec, found.runs,
                   ObservedExperiment({run.name: job(FAILED) for run in found.runs[:3]}))
    assert (decided.finished, decided.actions) == (True, ())


# --- Random schedules: whatever happens, nothing is bought twice, and parallelism and budget hold in every pass.

STEP = Decimal("0.7")
"""Most that one job spends between two passes: what a limit may be passed by."""


@dataclass
class World:
    """Jobs that run, end, fail and vanish by chance, and a user who edits the experiment."""

    chance: random.Random
    jobs: dict[str, ObservedJob] = field(default_factory=dict)
    needs: dict[str, Decimal] = field(default_factory=dict)
    bought: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)
    lost: Counter[str] = field(default_factory=Counter)
    spent_before: Decimal = Decimal(0)

    def observe(self, estimates) -> ObservedExperiment:
        return ObservedExperiment(dict(self.jobs), self.spent_before, estimates)

    def carry_out(self, actions) -> None:
        """Carry out the actions; sometimes the operator is killed in between."""
        for action in actions:
            if self.chance.random() < 0.1:
                return
            match action:
                case CreateJob(run, limit):
                    assert run.name not in self.jobs
                    assert run.name not in self.ended
                    self.bought[run.name] += 1
                    self.jobs[run.name] = ObservedJob(RUNNING, max_cost=limit)
                case LimitJob(name, limit):
                    self.jobs[name] = replace(self.jobs[name], max_cost=limit)
                case SuspendJob(name):
                    self.jobs[name] = replace(self.jobs[name], phase=RunPhase.SUSPENDED, held=True)
                case ResumeJob(name):
                    self.jobs[name] = replace(self.jobs[name], phase=RUNNING, held=False)
                case StopJob(name):
                    self._remove(name)

    def pass_time(self) -> None:
        for name, one in list(self.jobs.items()):
            if one.phase is not RUNNING:
                continue
            if one.max_cost is not None and one.spent >= one.max_cost:
                self._end(name, SUCCEEDED)  # The trainer stops at its limit.
                continue
            spent = one.spent + (STEP * Decimal(str(round(self.chance.random(), 3))))
            self.jobs[name] = one = replace(one, spent=spent.quantize(Decimal("0.0001")))
            if spent >= self.needs.setdefault(name, Decimal(str(round(self.chance.uniform(0, 4), 2)))):
                self._end(name, SUCCEEDED if self.chance.random() < 0.8 else FAILED)
            elif self.chance.random() < 0.02:  # Somebody deletes the job.
                self._remove(name)

    def _remove(self, name: str) -> None:
        self.spent_before += self.jobs.pop(name).spent
        self.lost[name] += 1

    def _end(self, name: str, phase: RunPhase) -> None:
        self.ended.add(name)
        self.jobs[name] = replace(self.jobs[name], phase=phase, score=self.chance.random())


def _edited(sections, chance, calm):
    """The experiment after an edit: variants come and go, the budget, parallelism and suspend change."""
    sections = dict(sections)
    if not calm and chance.random() < 0.1:
        sections["variants"] = [{"name": f"v{number}"} for number in range(12) if chance.random() < 0.5] or [
            {"name": "v0"}]
    if not calm and chance.random() < 0.05:
        sections["suspend"] = not sections["suspend"]
    if not calm and chance.random() < 0.05 and "budget" in sections:
        sections["budget"] = {"maxCost": chance.randint(2, 30)}
    if calm:
        sections["suspend"] = False
    return sections


def _check(spec, decided, before) -> None:
    """Parallelism and budget hold when the actions of a pass are carried out."""
    new = [one for one in decided.actions if isinstance(one, CreateJob)]
    active = [one for one in before.jobs.values() if not one.has_ended]
    assert not new or len(active) + len(new) <= spec.parallelism
    assert not (spec.suspend and new)
    assert len({one.run.name for one in new}) == len(new)
    if spec.budget.max_cost is None:
        return
    limits = {one.name: one.max_cost for one in decided.actions if isinstance(one, LimitJob)}
    stopped = {one.name for one in decided.actions if isinstance(one, StopJob)}
    promised = before.spent + sum((one.max_cost for one in new), Decimal(0)) + sum(
        (max(limits.get(name, one.max_cost) - one.spent, Decimal(0)) for name, one in before.jobs.items()
         if not one.has_ended and name not in stopped and limits.get(name, one.max_cost) is not None), Decimal(0))
    assert promised <= (spec.budget.max_cost if new else max(spec.budget.max_cost, before.spent))


@pytest.mark.parametrize("seed", range(60))
def test_parallelism_and_budget_hold_in_every_pass_and_nothing_is_bought_twice(seed):
    chance = random.Random(seed)
    world = World(chance)
    sections = {"variants": [{"name": f"v{number}"} for number in range(chance.randint(1, 10))], "suspend": False,
                "parallelism": chance.randint(1, 4), "rankBy": {"metric": "exactMatch"}}
    if seed % 3:
        sections["budget"] = {"maxCost": chance.randint(2, 30)}
    if seed % 4 == 0:
        sections["earlyStop"] = {"rungs": [0.25, 0.5][:chance.randint(1, 2)], "keep": 0.5}
    found, estimates = None, {}
    for number in range(2000):
        edited = _edited(sections, chance, calm=number > 80)
        if found is None or edited != sections:
            sections, found = edited, experiment(**edited)
            estimates = {run.name: Decimal(chance.randint(0, 4)) for run in found.runs} if seed % 5 == 0 else {}
        before = world.observe(estimates)
        decided = plan(found.resource.spec, found.runs, before)
        _check(found.resource.spec, decided, before)
        world.carry_out(decided.actions)
        if decided.finished and number > 80:
            break
        world.pass_time()
    assert decided.finished, "it never ends"
    for name, times in world.bought.items():
        assert times <= 1 + world.lost[name], "bought again although it was there"
    assert all(one.phase is RunPhase.SKIPPED for one in decided.not_started.values())
