"""Experiments on a real control plane: from apply to their table, whatever is killed, deleted or edited meanwhile."""

from __future__ import annotations

import json
import signal
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.experiment.rules import RULES
from finetune_api.experiment.status import RankedVariant
from finetune_api.messages import JobEstimate, Outcome, PreflightResult, PreflightVerdict, Result
from finetune_api.rules import merge_patch
from finetune_api.status import EvaluationScores

from tests.api.experiments import experiment, experiment_document
from tests.api.jobs import nested
from tests.cluster.waiting import wait_for
from tests.operator.api import Api, Refused
from tests.operator.conftest import CRD, lasting_pods
from tests.operator.operators import Operator
from tests.operator.work import ADAPTER, Applied, Work

PAGE = "s3://bucket/prefix/compare/report.html"
DRY = "?dryRun=All&fieldValidation=Strict"
KIND, JOB = "FineTuneExperiment", "FineTuneJob"
SKIP = {"runPolicy": {"preflight": "Skip"}}


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.cel], ids=lambda rule: f"{rule.path}: {rule.message}")
def test_the_apiserver_judges_the_cases_of_a_rule_as_we_do(api, rule):
    api.create(KIND, "default", experiment_document(**nested(rule.section, rule.accepts)["spec"]), DRY)
    with pytest.raises(Refused) as refusal:
        api.create(KIND, "default", experiment_document(**nested(rule.section, rule.refuses)["spec"]), DRY)
    assert refusal.value.status == 422
    assert rule.message in refusal.value.message


def test_the_apiserver_refuses_two_variants_of_one_name_and_fields_that_no_job_has(api):
    twice = experiment_document(variants=[{"name": "one"}, {"name": "one"}])
    with pytest.raises(Refused, match=r"spec\.variants\[1\]: Duplicate value"):
        api.create(KIND, "default", twice, DRY)
    with pytest.raises(Refused, match="unknown field"):
        api.create(KIND, "default", experiment_document(template={"spec": {"trainig": {}}}), DRY)


class Trial(Applied):
    """What happens to one experiment in one namespace."""

    kind = KIND

    def __init__(self, api, namespace, name="compare"):
        super().__init__(api, namespace, name)

    def apply(self, *variants, template=None, **sections):
        document = experiment_document(self.name, variants=[{"name": name, "patch": {"training": {"seed": number}}}
                                                            for number, name in enumerate(variants)],
                                       template={"spec": merge_patch(SKIP, template or {})}, **sections)
        return self.api.create(KIND, self.namespace, document)

    def jobs(self):
        """The FineTuneJobs by variant."""
        return {job["metadata"]["labels"]["finetune.dev/variant"]: job for job in self.api.list(JOB, self.namespace)}

    def work(self, variant):
        """The job of a variant, once its pod runs."""
        name = wait_for(lambda: self.jobs().get(variant), f"the job of {variant}")["metadata"]["name"]
        work = Work(self.api, self.namespace, name)
        work.until("Running")
        return work

    def rows(self):
        return {row["variant"]: row for row in self.status().get("runs", [])}

    def report(self, *best, winner=None, code=0):
        """End the pod that writes the report: it found these variants the best."""
        def pod():
            return next((pod for pod in self.api.list("Pod", self.namespace)
                         if "finetune.dev/report" in pod["metadata"]["labels"]
                         and pod["status"].get("phase") == "Running"), None)

        ranking = tuple(RankedVariant(rank=place, variant=name, score=1.0, low=0.5, high=1.5, rows=8, cost=Decimal(1),
                                      verdict="the best score") for place, name in enumerate(best, start=1))
        told = ReportedExperiment(outcome=Outcome.SUCCEEDED, message="complete", report=PAGE, winner=winner,
                                  conclusion=f"{winner} wins." if winner else "No clear winner.", ranking=ranking)
        Work(self.api, self.namespace).end_pod(wait_for(pod, "the pod of the report"), code, told)

    def message(self):
        return next(one["message"] for one in self.status()["conditions"] if one["type"] == "Progressing")


@pytest.fixture
def trial(api, namespace):
    """The experiment."""
    return Trial(api, namespace)


def done(score):
    """How a trainer ends that reached a score."""
    return Result(outcome=Outcome.SUCCEEDED, message="trained and published", step=4, total_steps=4, adapter=ADAPTER,
                  evaluation=EvaluationScores(before={"loss": 2.0}, after={"loss": score}))


def test_a_null_in_a_patch_needs_server_side_apply(control_plane, api, namespace):
    nothing = {"name": "only", "patch": {"training": {"seed": None}}}
    text = json.dumps(experiment_document(variants=[nothing]))
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=text)
    assert api.get("FineTuneExperiment", namespace, "compare")["spec"]["variants"] == [nothing | {"patch": {
        "training": {}}}], "kubectl drops nulls"
    control_plane.kubectl("delete", "fte", "compare", "-n", namespace)
    control_plane.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", input=text)
    assert api.get("FineTuneExperiment", namespace, "compare")["spec"]["variants"] == [nothing]
    control_plane.kubectl("delete", "fte", "compare", "-n", namespace)


def test_an_experiment_runs_from_apply_to_its_table(operator, control_plane, trial):
    trial.apply("one", "two", "three", parallelism=2)
    first, second = trial.work("one"), trial.work("two")
    assert trial.rows()["three"]["reason"] == "Waiting"
    assert trial.jobs()["three"]["spec"]["runPolicy"]["suspend"] is True
    first.end(0, done(1.5))
    third = trial.work("three")
    second.end(0, done(0.5))
    third.end(65)
    status = trial.until("Running", "Reporting")
    assert [(one["variant"], one["score"]) for one in status["ranking"]] == [("two", 0.5), ("one", 1.5)]
    assert status["conclusion"].startswith("No clear winner: two has the best loss (0.5)")
    trial.report("two", winner="two")
    status = trial.until("Succeeded")
    assert (status["winner"], status["conclusion"], status["report"]) == ("two", "two wins.", PAGE)
    assert [(one["variant"], one.get("low")) for one in status["ranking"]] == [("two", 0.5), ("one", None)]
    wait_for(lambda: not [one for kind in ("Job", "ConfigMap") for one in trial.api.list(kind, trial.namespace)
                          if "finetune.dev/experiment-uid" in one["metadata"].get("labels", {})],
             "nothing of the report to be left")
    assert status["done"] == "3/3"
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Validated": "True", "Progressing": "False", "Reconciling": "False", "Finished": "True", "Succeeded": "True",
        "Failed": "False"}
    rows = trial.rows()
    assert (rows["one"]["before"], rows["one"]["after"], rows["one"]["adapter"]) == (2.0, 1.5, ADAPTER.uri)
    assert (rows["three"]["phase"], rows["three"]["reason"]) == ("Failed", "BadData")
    labels = frozenset({("namespace", trial.namespace), ("experiment", "compare")})
    assert operator.metrics()["finetune_experiment_cost_spent", labels] == float(status["cost"]["spent"])
    printed = control_plane.kubectl("get", "fte", "-n", trial.namespace).stdout.split("\n")
    assert printed[0].split() == ["NAME", "PHASE", "DONE", "BEST", "METRIC", "SCORE", "WINNER", "COST", "AGE"]
    assert printed[1].split()[:7] == ["compare", "Succeeded", "3/3", "two", "loss", "1", "two"]
    reasons = [one["reason"] for one in trial.api.list("Event", trial.namespace)
               if one["involvedObject"]["kind"] == KIND]
    assert sorted(reasons) == ["Finished", "Preflight", "Reporting", "Running"]
    for variant, job in trial.jobs().items():
        assert len(job["metadata"]["name"]) <= 40
        assert job["metadata"]["ownerReferences"][0]["kind"] == KIND, variant
        assert len(Work(trial.api, trial.namespace, job["metadata"]["name"]).jobs()) == 1, "nothing was bought twice"


@pytest.mark.parametrize("moment", ["created", "changed"])
def test_an_operator_that_is_killed_anywhere_buys_nothing_twice(control_plane, api, trial, namespace, moment):
    first = Operator(control_plane, namespace, fault=moment, identity="first")
    trial.apply("one", "two")
    assert first.process.popen.wait(60) == -signal.SIGKILL
    second = Operator(control_plane, namespace, identity="second")
    try:
        trial.work("one").end(0, done(1.0))
        trial.work("two").end(0, done(2.0))
        trial.report("one")
        trial.until("Succeeded")
        assert len(trial.jobs()) == 2
        assert all(len(Work(api, namespace, job["metadata"]["name"]).jobs()) == 1 for job in trial.jobs().values())
    finally:
        second.stop()


def test_an_operator_that_is_killed_while_the_report_is_made_writes_it_once(control_plane, api, trial, namespace):
    first = Operator(control_plane, namespace, identity="first")
    trial.apply("one")
    trial.work("one").end(0, done(1.0))
    trial.until("Running", "Reporting")
    first.process.popen.kill()
    trial.report("one", winner="one")
    second = Operator(control_plane, namespace, identity="second")
    try:
        assert trial.until("Succeeded")["report"] == PAGE
        (job,) = trial.jobs().values()
        wait_for(lambda: [one["metadata"]["name"] for one in api.list("Job", namespace)]
                 == [f"{job['metadata']['name']}-1"], "the Job of the report to be gone")
    finally:
        second.stop()


def stop_after(work, seconds):
    """A first attempt that ran for some time, and goes on in another one."""
    pod = work.running_pod()
    started = datetime.fromisoformat(pod["status"]["startTime"])
    pod["status"]["startTime"] = (started + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    work.end_pod(pod, 75, Result(outcome=Outcome.STOPPED, message="stopped"))


def test_a_job_that_is_deleted_in_the_middle_is_bought_again_and_its_money_is_told(control_plane, api, trial,
                                                                                   namespace):
    settings = {"accelerators": {"nvidia-l4": {"hourlyPrice": "100000", "memory": "24Gi"}}}
    operator = Operator(control_plane, namespace, settings=settings)
    try:
        trial.apply("one", "two")
        job = trial.work("one")
        stop_after(job, seconds=60)
        spent = wait_for(lambda: Decimal(trial.rows()["one"].get("cost", 0)) or None, "a cost")
        operator.process.popen.kill()  # Nobody sees the deletion.
        api.delete(JOB, namespace, job.name)
        wait_for(lambda: "one" not in trial.jobs(), "the job to be gone")
        operator = Operator(control_plane, namespace, settings=settings, identity="second")
        again = trial.work("one")
        again.end(0, done(1.0), number=again.status()["attempts"][-1]["number"])
        trial.work("two").end(0, done(2.0))
        trial.report("one")
        cost = trial.until("Succeeded")["cost"]
        assert Decimal(cost["removed"]) >= spent
        assert Decimal(cost["spent"]) == Decimal(cost["removed"]) + sum(
            Decimal(row["cost"]) for row in trial.rows().values())
        api.delete(JOB, namespace, job.name)
        trial.change(parallelism=2)
        wait_for(lambda: trial.status()["observedGeneration"] == 2, "the operator to look again")
        assert "one" not in trial.jobs(), "a finished variant is never run again"
        assert trial.status()["cost"] == cost
    finally:
        operator.stop()


def test_suspend_and_resume(operator, trial):
    trial.apply("one", "two")
    job = trial.work("one")
    trial.change(suspend=True)
    trial.until("Suspended")
    job.until("Suspended")
    trial.change(suspend=False)
    job.running_pod(2)
    trial.until("Running")


def test_a_job_that_somebody_else_suspended_stays_suspended(operator, trial):
    trial.apply("one", "two")
    job = trial.work("one")
    job.change(runPolicy={"suspend": True})
    wait_for(lambda: trial.rows()["one"]["phase"] == "Suspended", "the experiment to see it")
    assert trial.jobs()["one"]["spec"]["runPolicy"]["suspend"] is True


def test_editing_removes_and_adds_variants_and_runs_no_finished_one_again(operator, trial):
    trial.apply("one", "two")
    first = trial.work("one")
    first.end(0, done(1.0))
    trial.work("two")
    trial.change(variants=[{"name": "one", "patch": {"training": {"seed": 0}}},
                           {"name": "three", "patch": {"training": {"seed": 3}}}])
    trial.work("three").end(0, done(3.0))
    trial.report("one")
    status = trial.until("Succeeded")
    assert [row["variant"] for row in status["runs"]] == ["one", "three"]
    wait_for(lambda: set(trial.jobs()) == {"one", "three"}, "the removed job to be gone")
    assert first.jobs() == [f"{first.name}-1"]


def test_an_invalid_variant_is_named_before_anything_starts(operator, trial):
    document = experiment_document("compare", variants=[
        {"name": "good"}, {"name": "bad", "patch": {"training": {"batchSize": 4, "microBatchSize": 8}}}])
    trial.api.create(KIND, trial.namespace, document)
    trial.until("Pending", "InvalidVariant")
    assert "variant bad: spec.training.microBatchSize" in trial.message()
    assert trial.jobs() == {}
    trial.change(variants=[{"name": "good", "patch": SKIP}])
    trial.work("good")


def test_a_job_of_somebody_else_with_a_name_of_ours_is_told(operator, trial):
    trial.apply("one", suspend=True)
    trial.until("Suspended")
    name = trial.rows()["one"]["job"]
    other = Work(trial.api, trial.namespace, name)
    other.apply(runPolicy={"suspend": True})
    trial.change(suspend=False)
    trial.until("Pending", "CannotStart")
    assert f"a FineTuneJob {name} exists that does not belong to this experiment. Delete it" in trial.message()
    trial.api.delete(JOB, trial.namespace, name)
    trial.work("one")


def test_a_job_that_is_refused_does_not_keep_those_of_removed_variants(operator, trial):
    trial.apply("one", "two")
    first = trial.work("one")
    added = [{"name": "two", "patch": {"training": {"seed": 1}}}, {"name": "three", "patch": {"training": {"seed": 3}}}]
    taken = experiment(variants=added, template={"spec": SKIP}).runs[1].name
    Work(trial.api, trial.namespace, taken).apply(runPolicy={"suspend": True})
    trial.change(variants=added)
    trial.until("Running", "CannotStart")
    wait_for(lambda: first.name not in {job["metadata"]["name"] for job in trial.api.list(JOB, trial.namespace)},
             "the removed job to be gone")
    trial.api.delete(JOB, trial.namespace, taken)
    trial.work("two")


def passed(cost):
    """What a check finds."""
    return PreflightResult(verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, message="can run",
                           estimate=JobEstimate(memory_bytes=2**30, micro_batch_size=1, gradient_checkpointing=False,
                                                tokens=1, hours=1.0, cost=Decimal(cost)))


def end_checks(trial, count, cost):
    """End the checks of all jobs as their trainers do."""
    work = Work(trial.api, trial.namespace)

    def checks():
        found = [pod for pod in trial.api.list("Pod", trial.namespace)
                 if "finetune.dev/preflight" in pod["metadata"]["labels"]
                 and pod["status"].get("phase") == "Running"]
        return found if len(found) == count else None

    for pod in wait_for(checks, f"{count} checks"):
        work.end_pod(pod, 0, passed(cost))


def test_all_variants_are_checked_before_the_first_accelerator_and_refused_above_the_budget(operator, trial):
    trial.apply("one", "two", template={"runPolicy": {"preflight": "Required"}}, budget={"maxCost": "10"})
    trial.until("Pending", "Preflight")
    end_checks(trial, 2, "6")
    trial.until("Pending", "EstimateAboveBudget")
    assert "all jobs together are estimated to cost 12.00 USD" in trial.message()
    assert trial.api.list("Job", trial.namespace) == [], "no check and no attempt is left"
    trial.change(budget={"maxCost": "20"})
    work = trial.work("one")
    assert Decimal(trial.jobs()["one"]["spec"]["budget"]["maxCost"]) == 10
    assert work.jobs() == [f"{work.name}-1"], "it is not checked again"
    work.end(0, done(1.0))
    trial.work("two").end(0, done(2.0))
    trial.report("one")
    trial.until("Succeeded")


def test_without_the_definition_of_experiments_jobs_run_and_the_log_says_what_is_missing():
    with lasting_pods() as plane:
        plane.kubectl("apply", "--server-side", "-f", CRD)
        plane.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=30s")
        api, namespace = Api(plane), plane.namespace("earlier")
        operator = Operator(plane, namespace)
        try:
            work = Work(api, namespace)
            work.apply()
            work.until("Running")
            assert "experiments are not served" in operator.process.log.read_text()
        finally:
            operator.stop()
            api.close()
