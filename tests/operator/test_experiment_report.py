"""The report of an experiment: the pod that writes it, and what becomes of the ranking however that pod ends."""

from __future__ import annotations

import copy
import json

import pytest
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.messages import Outcome
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.decide.experiment.actions import PatchOwned
from finetune_operator.settings import Destination, Settings, TrainerNetwork

from tests.operator.experiment_simulation import Simulation, variants
from tests.operator.objects import stamp

BY_SCORES = "No clear winner: one has the best loss (1), but its difference to two, three can be chance"


def ended(*names, **sections):
    """An experiment whose jobs have all ended, and whose report is about to be written."""
    names = names or ("one", "two", "three")
    simulation = Simulation(*names, parallelism=len(names), **sections)
    simulation.settle()
    for score, raw in enumerate(simulation.running()):
        simulation.advance(raw, 1, score + 1.0)
    return simulation


def status_of(simulation):
    return simulation.raw["status"]


def test_the_report_is_written_once_and_its_ranking_is_kept():
    simulation = ended()
    simulation.run()
    assert simulation.told() == ("Running", "Reporting",
                                 "a pod on a CPU compares the results row by row and writes the report")
    assert status_of(simulation)["ranking"][0]["variant"] == "one", "the scores are shown meanwhile"
    assert {kind for kind, _ in simulation.children} == {"ConfigMap", "Job"}
    simulation.settle()
    status = status_of(simulation)
    assert simulation.told() == ("Succeeded", "Finished", "3 jobs: 3 succeeded. one wins")
    assert (status["winner"], status["report"]) == ("one", "s3://bucket/report.html")
    assert [one.get("low") for one in status["ranking"]] == [0.0, 1.0, None]
    assert [one["rank"] for one in status["ranking"]] == [1, 2, 3]
    assert status["ranking"][2]["verdict"] == "compared in the report"
    assert status["reporting"]["outcome"] == "Succeeded"
    assert simulation.children == {}, "nothing of it is left"
    simulation.settle()
    assert status_of(simulation) == status
    assert simulation.reports == 1


def test_the_pod_is_told_the_experiment_as_it_ended_and_gets_the_keys_of_the_output_alone():
    output = {"uri": "s3://bucket/out", "s3": {"credentialsSecretRef": {"name": "s3"}}}
    template = {"runPolicy": {"preflight": "Skip"}, "output": output,
                "model": {"tokenSecretRef": {"name": "hub"}}}
    simulation = ended("one", "two", template=template)
    simulation.run()
    (config,) = [raw for (kind, _), raw in simulation.children.items() if kind == "ConfigMap"]
    (job,) = [raw for (kind, _), raw in simulation.children.items() if kind == "Job"]
    told = json.loads(config["data"]["experiment.json"])
    assert (told["status"]["phase"], told["status"]["done"]) == ("Succeeded", "2/2")
    assert "ranking" not in told["status"] or told["status"]["ranking"] == []
    assert told["metadata"] == {"name": "compare", "namespace": "team"}
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["args"] == ["experiment-report", "--config", "/etc/finetune/run"]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"]
            if "secretKeyRef" in one.get("valueFrom", {})} == {"s3"}
    assert {"name": "run", "configMap": {"name": config["metadata"]["name"]}} in pod["volumes"]
    assert not any("nvidia.com/gpu" in one for one in container["resources"]["limits"])


def test_claims_of_all_outputs_are_mounted_and_a_policy_limits_the_network():
    network = TrainerNetwork(destinations=(Destination(cidr="10.0.0.0/8"),))
    settings = Settings(trainer_image="registry/trainer:1", trainer_network=network)
    names = [{"name": "one"}, {"name": "two", "patch": {"output": {"uri": "pvc://second/out"}}}]
    simulation = Simulation(template={"runPolicy": {"preflight": "Skip"}, "output": {"uri": "pvc://first/out"}},
                            parallelism=2)
    simulation.settings = settings
    simulation.edit(variants=names)
    simulation.settle()
    for raw in simulation.running():
        simulation.advance(raw, 1, 1.0)
    simulation.run()
    kinds = {kind: raw for (kind, _), raw in simulation.children.items()}
    pod = kinds["Job"]["spec"]["template"]
    assert [one["persistentVolumeClaim"] for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one] == [
        {"claimName": "first", "readOnly": False}, {"claimName": "second", "readOnly": False}]
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["ingress"] == []
    assert {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]} in policy["egress"]
    simulation.settle()
    assert simulation.children == {}


@pytest.mark.parametrize(("code", "told", "reason", "words", "pods"), [
    (64, ReportedExperiment(outcome=Outcome.BAD_CONFIG, message="spec is wrong"), "BadConfig", "spec is wrong", 1),
    (1, None, "UnknownExit", "ended with exit code 1 (tried 4 times)", 4),
    (0, None, "UnknownExit", "The trainer's image is of another release", 1),
])
def test_whatever_ends_the_pod_the_experiment_ends_with_its_scores_and_says_why(code, told, reason, words, pods):
    simulation = ended()
    simulation.report_ends = [(code, told)] * 10
    for _ in range(pods):
        simulation.settle()
        simulation.passes += 3600
    simulation.settle()
    phase, why, message = simulation.told()
    assert (phase, why) == ("Succeeded", "Finished")
    assert BY_SCORES in message
    assert ". There is no report: " in message
    assert words in message
    status = status_of(simulation)
    assert status["reporting"]["outcome"] == reason
    assert "report" not in status
    assert simulation.children == {}
    assert simulation.reports == pods


def test_a_pod_that_fails_is_followed_by_another_after_a_delay():
    simulation = ended()
    simulation.report_ends = [(1, ReportedExperiment(outcome=Outcome.INTERNAL, message="the server is away"))]
    simulation.settle()
    assert simulation.told() == ("Running", "Reporting", "the report is written again: the server is away")
    assert simulation.decide().requeue_after is not None
    simulation.settle()
    assert simulation.reports == 1, "not before its time"
    simulation.passes += 3600
    simulation.settle()
    assert simulation.told()[2] == "3 jobs: 3 succeeded. one wins"
    assert simulation.reports == 2


def test_a_job_whose_end_is_seen_before_that_of_its_pod_is_waited_for():
    simulation = ended()
    simulation.run()
    simulation.end_reports()
    (key,) = [key for key in simulation.children if key[0] == "Pod"]
    told = simulation.children[key]
    simulation.children[key] = {**told, "status": {"phase": "Running"}}
    decided = simulation.decide()
    assert (decided.status.phase, decided.deletions) == ("Running", ())
    assert decided.requeue_after is not None
    simulation.children[key] = told
    simulation.settle()
    assert simulation.told()[2] == "3 jobs: 3 succeeded. one wins"


def test_a_pod_that_is_gone_with_what_it_told_is_followed_by_another():
    simulation = ended()
    simulation.run()
    simulation.end_reports()
    (key,) = [key for key in simulation.children if key[0] == "Pod"]
    del simulation.children[key]  # Its node was removed before the operator saw the end.
    simulation.passes += 60
    simulation.run()
    assert simulation.told() == ("Running", "Reporting",
                                 "the report is written again: its pod is gone, and with it what it reported")
    simulation.passes += 3600
    simulation.settle()
    assert simulation.told()[2] == "3 jobs: 3 succeeded. one wins"
    assert simulation.reports == 2


def test_a_report_that_no_config_map_can_hold_is_given_up_with_the_way_to_write_it():
    long = {"dataset": {"prompt": "x" * 11_000 + "{question}"}}
    simulation = Simulation(template={"runPolicy": {"preflight": "Skip"}}, parallelism=100)
    simulation.edit(variants=[{"name": f"v{number}", "patch": {"training": {"seed": number}, **long}}
                              for number in range(100)])
    simulation.settle()
    for raw in simulation.running():
        simulation.advance(raw, 1, 1.0)
    simulation.settle()
    assert simulation.told()[:2] == ("Succeeded", "Finished")
    assert "`kubectl get fte compare -o json`" in simulation.told()[2]
    assert simulation.reports == 0


def test_a_pod_cannot_rank_what_the_experiment_does_not_have():
    simulation = ended()
    simulation.run()
    told = simulation.reported()
    strange = told.ranking[0].model_copy(update={"variant": "strange"})
    simulation.report_ends = [(0, told.model_copy(update={"winner": "strange",
                                                          "ranking": (strange, *told.ranking, told.ranking[1])}))]
    simulation.settle()
    assert [one["variant"] for one in status_of(simulation)["ranking"]] == ["one", "two", "three"]
    assert "winner" not in status_of(simulation)


def test_what_a_report_lacks_is_told():
    simulation = ended()
    simulation.run()
    lacking = simulation.reported().model_copy(update={"is_incomplete": True, "message": "two: no scores"})
    simulation.report_ends = [(0, lacking)]
    simulation.settle()
    assert simulation.told()[2] == "3 jobs: 3 succeeded. one wins. The report is incomplete: two: no scores"


@pytest.mark.parametrize("killed_after", range(4))
def test_an_operator_that_is_killed_anywhere_writes_the_report_once(killed_after):
    simulation = ended()
    simulation.run(killed_after=killed_after)
    simulation.settle()
    assert simulation.told()[2] == "3 jobs: 3 succeeded. one wins"
    assert simulation.reports == 1
    assert simulation.children == {}


def test_an_edit_after_the_end_makes_another_report_of_all_results():
    simulation = ended()
    simulation.settle()
    simulation.edit(variants=variants("one", "two", "three", "four"))
    simulation.settle()
    assert "reporting" not in status_of(simulation)
    assert status_of(simulation)["report"] == "s3://bucket/report.html", "the page of before is still there"
    (fourth,) = simulation.running()
    simulation.advance(fourth, 1, 0.5)
    simulation.settle()
    assert simulation.told()[2] == "4 jobs: 4 succeeded. four wins"
    assert simulation.reports == 2


def test_suspending_a_finished_experiment_keeps_its_ranking_and_one_that_has_no_report_yet_gets_none():
    simulation = ended()
    simulation.settle()
    ranking = status_of(simulation)["ranking"]
    simulation.edit(suspend=True)
    simulation.settle()
    assert status_of(simulation)["ranking"] == ranking
    simulation.edit(suspend=False)
    simulation.settle()
    assert (status_of(simulation)["ranking"], simulation.reports) == (ranking, 1)
    early = ended()
    early.edit(suspend=True)
    early.settle()
    assert (early.told()[0], early.reports) == ("Suspended", 0)
    early.edit(suspend=False)
    early.settle()
    assert early.reports == 1


def test_an_experiment_that_a_release_without_reports_has_ended_stays_as_it_is():
    simulation = ended()
    simulation.settle()
    for field in ("reporting", "report"):
        del status_of(simulation)[field]
    simulation.settle()
    assert simulation.told()[0] == "Succeeded"
    assert simulation.reports == 1


def test_a_variant_that_its_budget_has_stopped_is_named_beside_those_that_trained_all_steps():
    simulation = ended()
    assert "StoppedEarly" not in (simulation.decide().status.conclusion or "")
    simulation.job_of("two")["status"]["conditions"] = [
        {"type": "Progressing", "status": "False", "reason": "StoppedEarly", "message": "the budget is spent",
         "observedGeneration": 1, "lastTransitionTime": stamp(0)}]
    assert "Not all steps were trained of two (StoppedEarly)" in simulation.decide().status.conclusion


def test_without_a_result_there_is_nothing_to_report():
    simulation = Simulation("one")
    simulation.settle()
    simulation.advance(simulation.running()[0], 1, -1.0)
    simulation.settle()
    assert simulation.told()[:2] == ("Failed", "NothingSucceeded")
    assert simulation.reports == 0


def test_the_cache_tells_the_experiment_of_every_change_of_its_report():
    cache, told = Cache(), []
    simulation = ended()
    simulation.run()
    cache.record(simulation.raw)
    cache.experiments.notify = told.append
    view = cache.experiments.view(("team", "compare"))
    job = copy.deepcopy(next(raw for (kind, _), raw in simulation.children.items() if kind == "Job"))
    job["metadata"]["resourceVersion"] = "5"
    assert cache.record(job) is None, "it belongs to no job"
    assert [one.name for one in cache.experiments.reports_of(view)] == [job["metadata"]["name"]]
    simulation.end_reports()
    pod = copy.deepcopy(simulation.children["Pod", job["metadata"]["name"]])
    pod["metadata"] |= {"resourceVersion": "6", "uid": "pod", "ownerReferences": [
        {"uid": job["metadata"]["uid"], "controller": True}]}
    cache.record(pod)
    cache.record({**pod, "metadata": {**pod["metadata"], "resourceVersion": "7"}}, deleted=True)
    (seen,) = cache.experiments.reports_of(view)
    assert seen.pods[0].reported is not None, "a deleted pod still shows how it ended"
    assert list(cache.keep_only("Job", set(), 9, None)) == []
    assert cache.experiments.reports_of(view) == ()
    assert told == [("team", "compare")] * 4


def test_a_job_with_only_some_of_the_labels_is_ignored():
    cache = Cache()
    labels = {"finetune.dev/experiment": "compare", "finetune.dev/experiment-uid": "experiment"}
    forged = {"kind": "Job", "spec": {}, "status": {}, "metadata": {
        "namespace": "team", "name": "x", "uid": "x", "resourceVersion": "1", "creationTimestamp": stamp(0),
        "labels": {**labels, "finetune.dev/report": "many"}}}
    cache.record(forged)
    assert list(cache.experiments.children.all("Job")) == []


def test_creations_come_in_an_order_in_which_nothing_waits():
    simulation = ended()
    kinds = [one.manifest["kind"] for one in simulation.decide().actions if not isinstance(one, PatchOwned)]
    assert kinds == ["ConfigMap", "Job"]
