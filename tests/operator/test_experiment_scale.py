"""An experiment of a hundred variants whose pods kwok plays to their end: its limits hold in every seen state."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from finetune_api.messages import Outcome, Result
from finetune_api.status import EvaluationScores

from tests.api.experiments import experiment_document
from tests.cluster import kwok
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fixtures import needing_this_machine
from tests.cluster.waiting import wait_for
from tests.operator.api import Api
from tests.operator.conftest import CAPACITY, CRD, EXPERIMENT_CRD
from tests.operator.operators import Operator
from tests.operator.work import ADAPTER

VARIANTS = 100
PARALLELISM = 10
BUDGET = Decimal(400)
DONE = Result(outcome=Outcome.SUCCEEDED, message="trained and published", step=4, total_steps=4, adapter=ADAPTER,
              evaluation=EvaluationScores(before={"loss": 2.0}, after={"loss": 1.0}))
PRICE_OF_A_SECOND = {"accelerators": {"nvidia-l4": {"hourlyPrice": "3600", "memory": "24Gi"}}, "workers": 4}
STATUS_BYTES = 200_000
"""Of one that is stored; etcd takes 1.5 MB."""


@pytest.fixture(scope="module")
def played():
    """A control plane whose pods run for a second and leave a result."""
    with needing_this_machine():
        plane = ControlPlane()
        try:
            plane.start()
            kwok.play(plane, capacity=CAPACITY, termination_message=DONE.to_bytes().decode())
            plane.kubectl("apply", "--server-side", "-f", CRD, "-f", EXPERIMENT_CRD)
            plane.kubectl("wait", "--for=condition=Established", "crd/finetuneexperiments.finetune.dev",
                          "crd/finetunejobs.finetune.dev", "--timeout=30s")
            yield plane
        finally:
            plane.stop()


def _document():
    return experiment_document("many", sweep={"grid": {"training.seed": list(range(VARIANTS))}}, variants=None,
                               parallelism=PARALLELISM, budget={"maxCost": str(BUDGET)},
                               template={"spec": {"runPolicy": {"preflight": "Skip"}}})


def _states(jobs):
    """The jobs that run, and what is spent or may be."""
    running = [job for job in jobs if not job["spec"]["runPolicy"]["suspend"]
               and "completionTime" not in job.get("status", {})]
    spent = sum((Decimal(job.get("status", {}).get("cost", {}).get("spent", 0)) for job in jobs
                 if "completionTime" in job.get("status", {})), Decimal(0))
    return running, spent + sum((Decimal(job["spec"]["budget"]["maxCost"]) for job in running), Decimal(0))


def test_a_hundred_variants_keep_parallelism_and_budget_in_every_state_and_make_no_hot_loop(played):
    api, namespace = Api(played), played.namespace("many")
    operator = Operator(played, namespace, settings=PRICE_OF_A_SECOND)
    most = []
    try:
        api.create("FineTuneExperiment", namespace, _document())

        def finished():
            running, committed = _states(api.list("FineTuneJob", namespace))
            if len(running) > PARALLELISM or committed > BUDGET:  # An assertion would only be tried again.
                pytest.fail(f"{len(running)} jobs run, and {committed} may be spent")
            most.append(len(running))
            status = api.get("FineTuneExperiment", namespace, "many").get("status", {})
            assert status.get("phase") in ("Succeeded", "Failed"), status.get("done")
            return status

        status = wait_for(finished, "the table", 240)
        assert status["done"] == f"{VARIANTS}/{VARIANTS}"
        assert len(status["ranking"]) == VARIANTS
        assert max(most) >= PARALLELISM / 2, "several ran at once"
        assert Decimal(status["cost"]["spent"]) <= BUDGET
        assert len(json.dumps(status)) < STATUS_BYTES
        print(f"{operator.requests():.0f} requests, {operator.requests('POST', 'PUT', 'PATCH', 'DELETE'):.0f} of them "  # noqa: T201
              f"writes, {len(json.dumps(status))} bytes of status, {max(most)} jobs at once")
        assert operator.requests("POST", "PUT", "PATCH", "DELETE") <= 30 * VARIANTS
        before = wait_for(lambda: _settled(operator), "the operator to be idle")
        api.patch("FineTuneExperiment", namespace, "many", {"metadata": {"labels": {"seen": "again"}}})
        wait_for(lambda: _passes(operator) > before[1], "another pass")
        assert _settled(operator)[0] == before[0], "a pass without news makes no request"
    finally:
        operator.stop()
        api.close()


def _passes(operator):
    return operator.metrics()[("finetune_operator_experiment_reconciles_total", frozenset({("result", "ok")}))]


def _settled(operator):
    """Requests and passes, once they stay the same for a second."""
    first = operator.requests(), _passes(operator)
    turns = []
    wait_for(lambda: turns.append(1) or len(turns) > 20, "a second to pass")
    return first if (operator.requests(), _passes(operator)) == first else None
