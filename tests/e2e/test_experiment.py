"""An experiment on real pods: four methods from apply to their report, whatever is killed and deleted meanwhile.

The same file, run by `finetune run`, leads to the same scores. Both compute in float32 on a CPU: the accelerator of the
pods' node is there in name only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from decimal import Decimal

import pytest
import yaml

from tests.cluster.waiting import wait_for
from tests.e2e.conftest import tiny_spec
from tests.operator.work import Applied
from tests.trainer.pages import Walk

pytestmark = pytest.mark.timeout(1800)
BEST_FIRST = ["full", "qdora", "lora", "ia3"]
VARIANTS = [
    {"name": "qdora", "patch": {"method": {"type": "DoRA", "quantization": "nf4", "dora": {"rank": 4}},
                                "training": {"maxSteps": 80, "learningRate": 0.003},
                                "runPolicy": {"preflight": "Required"}}},
    {"name": "lora", "patch": {"training": {"maxSteps": 300, "learningRate": 0.03}}},
    {"name": "full", "patch": {"method": {"type": "Full"}, "training": {"learningRate": 0.003}}},
    {"name": "ia3", "patch": {"method": {"type": "Additive", "additive": {"technique": "IA3"}},
                              "training": {"learningRate": 0.03}}},
]
"""Their losses differ by more than 0.2. The first two train for seconds, in which something happens to them. One is
checked: nothing starts before its check has ended, and each check takes the time of a job."""

ROUNDING = 1e-4
"""Between two runs of one job: scores have six decimals, and the size of a micro-batch, which follows from the memory
that a place has, decides in which order floats are added."""


def document(environment, namespace, folder):
    """The experiment, with its results in a folder of the bucket."""
    template = tiny_spec(environment, dataset={"evaluationFraction": 0.3},
                         training={"maxSteps": 30, "checkpointEvery": 50, "learningRate": 0.01},
                         evaluation={"samples": 12}, output={"uri": f"s3://{environment.bucket}/{folder}"})
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneExperiment",
            "metadata": {"name": "methods", "namespace": namespace},
            "spec": {"template": {"spec": template}, "variants": VARIANTS, "rankBy": {"metric": "loss"},
                     "budget": {"maxCost": "0.50"}}}


class Experiment(Applied):
    """The experiment in the cluster."""

    kind = "FineTuneExperiment"

    def job(self, variant):
        """The FineTuneJob of a variant; None while there is none."""
        found = [job for job in self.api.list("FineTuneJob", self.namespace)
                 if job["metadata"]["labels"]["finetune.dev/variant"] == variant]
        return found[0] if found else None

    def rows(self):
        return {row["variant"]: row for row in self.status().get("runs", [])}

    def until_it_trains(self, variant):
        """The variant's job, once its trainer has told of a step and the experiment knows what it costs."""
        def training():
            job = self.job(variant)
            assert job, self.status()
            status = job.get("status", {})
            if "completionTime" in status:
                pytest.fail(f"{variant} has ended; this test needs it to train for longer: {status['conditions']}")
            assert status.get("progress", {}).get("step", 0) >= 1, self.rows()
            return job if Decimal(self.rows()[variant].get("cost", 0)) else None

        return wait_for(training, f"{variant} to train", 600)

    def ended(self):
        """Its status, once it has ended."""
        return wait_for(lambda: (status := self.status()).get("completionTime") and status, "it to end", 900)

    def bought(self):
        """How many Jobs for an accelerator there have ever been, by FineTuneJob."""
        made = {(event["involvedObject"]["name"], event["involvedObject"]["uid"])
                for event in self.api.list("Event", self.namespace)
                if event["reason"] == "SuccessfulCreate" and event["involvedObject"]["kind"] == "Job"}
        return Counter(name.removesuffix("-1") for name, _ in made if name.endswith("-1"))


def test_four_methods_run_to_their_report_through_a_killed_operator_and_a_deleted_job(environment, tmp_path):
    space = environment.namespace()
    experiment = Experiment(environment.api, space, "methods")
    first = environment.operator(identity="dies", namespace=space, progressInterval="1s")
    environment.api.create(experiment.kind, space, document(environment, space, "out"))
    try:
        experiment.until_it_trains("qdora")
    finally:
        first.process.stop(grace_seconds=0)
    environment.installed.run()
    deleted = experiment.until_it_trains("lora")["metadata"]
    spent = Decimal(experiment.rows()["lora"]["cost"])
    environment.cluster.kubectl("delete", "ftj", deleted["name"], f"--namespace={space}", "--wait=false")
    with run_here(environment, document(environment, space, "here"), tmp_path) as local:
        status = experiment.ended()
    rows = {row["variant"]: row for row in status["runs"]}
    assert {(row["phase"], row["reason"]) for row in rows.values()} == {("Succeeded", "Succeeded")}, rows
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Validated": "True", "Progressing": "False", "Reconciling": "False", "Finished": "True", "Succeeded": "True",
        "Failed": "False"}
    assert experiment.bought() == {row["job"]: 2 if variant == "lora" else 1 for variant, row in rows.items()}
    assert experiment.job("lora")["metadata"]["uid"] != deleted["uid"]
    assert experiment.job("lora")["spec"]["runPolicy"]["resumeFrom"] == f"{deleted['name']}/{deleted['uid']}"
    assert experiment.job("lora")["status"]["attempts"][0]["resumedFromStep"] >= 1, "what was paid is not trained again"
    assert "checkedHash" in experiment.job("qdora")["status"]["preflight"]
    cost = {name: Decimal(value) for name, value in status["cost"].items() if name != "currency"}
    assert cost["removed"] >= spent
    assert cost["removed"] + sum(Decimal(row["cost"]) for row in rows.values()) == cost["spent"] <= Decimal("0.50")
    assert_reported(environment, space, status)

    assert local.returncode == 0, (tmp_path / "printed.txt").read_text()
    here = stored_status(environment, space, "here")
    assert {row["variant"]: row["job"] for row in here["runs"]} == {name: row["job"] for name, row in rows.items()}
    assert (here["winner"], list(scores(here))) == (status["winner"], list(scores(status)))
    assert scores(here) == pytest.approx(scores(status), abs=ROUNDING)


def assert_reported(environment, namespace, status):
    """The variants were compared row by row, the page shows all of them, and nothing of its Job is left."""
    assert [one["variant"] for one in status["ranking"]] == BEST_FIRST
    assert status["winner"] == "full", status["conclusion"]
    assert all(one["low"] < one["score"] < one["high"] for one in status["ranking"])
    assert status["report"] == f"s3://{environment.bucket}/out/{namespace}/methods/report.html"
    words = Walk(environment.read(status["report"]).decode()).words()
    assert status["conclusion"] in words
    adapters = {row["variant"]: row["adapter"] for row in status["runs"]}
    for one in status["ranking"]:
        assert f"{one['rank']} {one['variant']}" in words and adapters[one["variant"]] in words
    assert stored_status(environment, namespace, "out")["ranking"] == status["ranking"]
    wait_for(lambda: not environment.cluster.get("jobs,pods,configmaps,networkpolicies", "-n", namespace, "-l",
                                                 "finetune.dev/experiment-uid")["items"], "the report's Job to leave")


def run_here(environment, experiment, folder):
    """`finetune run` on this machine with the same file. Its process is awaited at the end of its context."""
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    with (folder / "printed.txt").open("wb") as printed:
        return subprocess.Popen([sys.executable, "-m", "finetune_cli", "run", path], stdout=printed,
                                stderr=subprocess.STDOUT, env={**os.environ, **environment.s3.environment(),
                                                               "OMP_NUM_THREADS": "1"})


def stored_status(environment, namespace, folder):
    """The status that lies beside a report."""
    uri = f"s3://{environment.bucket}/{folder}/{namespace}/methods/experiment.json"
    return json.loads(environment.read(uri))["status"]


def scores(status):
    """The scores of a ranking with their intervals, the best first."""
    return {f"{one['variant']} {name}": one[name] for one in status["ranking"] for name in ("score", "low", "high")}
