"""The CustomResourceDefinition on a real apiserver: each rule's cases, and what must never be refused."""

from __future__ import annotations

import json

import pytest
import yaml
from finetune_api.reasons import Reason
from finetune_api.rules import RULES, STORED_RULES, Rule
from finetune_api.status import Phase
from finetune_operator.cluster.reconcile.status_document import dump_status
from finetune_operator.decide.conditions import ConditionReport, set_conditions
from finetune_operator.observed.job import view_job

from tests.api.jobs import document, nested
from tests.cluster.waiting import wait_for
from tests.operator.api import Refused
from tests.operator.conftest import CRD
from tests.operator.objects import NOW

ALL = (*RULES, *STORED_RULES)
DRY = "?dryRun=All&fieldValidation=Strict"
STARTED = {"status": {"startTime": "2026-01-01T00:00:00Z", "specHash": "0" * 64}}


def _with(rule: Rule, section) -> dict:
    return document(**nested(rule.section, section)["spec"])


def _name(rule: Rule) -> str:
    return f"{rule.path}: {rule.message}"


@pytest.mark.parametrize("rule", ALL, ids=_name)
def test_the_apiserver_accepts_the_case_that_keeps_a_rule(api, rule):
    api.create("FineTuneJob", "default", _with(rule, rule.accepts), DRY)


@pytest.mark.parametrize("rule", ALL, ids=_name)
def test_the_apiserver_refuses_the_case_that_breaks_a_rule_in_the_same_words(api, rule):
    with pytest.raises(Refused) as refusal:
        api.create("FineTuneJob", "default", _with(rule, rule.refuses), DRY)
    assert refusal.value.status == 422
    assert f"{rule.path}: Invalid value" in refusal.value.message
    assert rule.message in refusal.value.message


@pytest.mark.parametrize("name", ["a" * 41, "1st", "a.b"])
def test_a_name_that_no_child_could_carry_is_refused(api, name):
    job = document()
    job["metadata"]["name"] = name
    with pytest.raises(Refused, match=r"metadata\.name"):
        api.create("FineTuneJob", "default", job, DRY)


@pytest.fixture
def stored(api, namespace):
    """The smallest job, started."""
    api.create("FineTuneJob", namespace, document())
    api.patch("FineTuneJob", namespace, "smallest", STARTED, "status")
    return namespace


@pytest.mark.parametrize(("section", "change"), [
    ("model", {"source": "other/model"}), ("dataset", {"maxSamples": 5}), ("output", {"uri": "s3://bucket/other"}),
    ("method", {"quantization": "nf4"}), ("training", {"epochs": 1}), ("evaluation", {"samples": 5}),
    ("compute", {"spot": True}),
])
def test_a_started_job_keeps_its_sections(api, stored, section, change):
    with pytest.raises(Refused, match=f"the job has started: spec.{section} can't change any more"):
        api.patch("FineTuneJob", stored, "smallest", {"spec": {section: change}})


def test_a_started_job_takes_another_budget_and_policy(api, stored):
    change = {"spec": {"budget": {"maxCost": "5"}, "runPolicy": {"suspend": True}}}
    assert api.patch("FineTuneJob", stored, "smallest", change)["spec"]["budget"]["maxCost"] == "5"


def test_a_job_may_be_edited_until_it_starts(api, namespace):
    api.create("FineTuneJob", namespace, document())
    api.patch("FineTuneJob", namespace, "smallest", {"spec": {"training": {"epochs": 1}}})


def test_the_start_is_never_cleared(api, stored):
    with pytest.raises(Refused, match="the time of the start is never cleared"):
        api.patch("FineTuneJob", stored, "smallest", {"status": {"startTime": None}}, "status")


def test_a_status_that_reports_an_overspend_is_taken(api, stored):
    api.patch("FineTuneJob", stored, "smallest", {"spec": {"budget": {"maxCost": "1"}}})
    cost = {"spent": "7.5", "currency": "USD", "hourlyRate": "1"}
    assert api.patch("FineTuneJob", stored, "smallest", {"status": {"cost": cost}}, "status")["status"]["cost"] == cost


def test_an_object_that_breaks_a_newer_rule_can_be_reported_on_and_deleted(api, control_plane, namespace):
    """A rule that comes with an upgrade must not brick what is stored: its status is written, its finalizers go."""
    crd = yaml.safe_load(CRD.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    api.create("FineTuneJob", namespace, document(training={"maxSteps": 7}))
    spec["properties"]["training"]["x-kubernetes-validations"].append(
        {"rule": "!has(self.maxSteps) || self.maxSteps != 7", "message": "no sevens any more"})
    try:
        control_plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(crd))
        wait_for(lambda: _is_refused(api, namespace), "the newer rule to be in force")
        api.patch("FineTuneJob", namespace, "smallest", STARTED, "status")
        api.patch("FineTuneJob", namespace, "smallest", {"spec": {"runPolicy": {"suspend": True}}})
        api.delete("FineTuneJob", namespace, "smallest", "Foreground")
        wait_for(lambda: api.list("FineTuneJob", namespace) == [], "the job to be gone")
    finally:
        control_plane.kubectl("apply", "--server-side", "-f", CRD)
        wait_for(lambda: not _is_refused(api, namespace), "the newer rule to be gone")


def _is_refused(api, namespace) -> bool:
    job = document(training={"maxSteps": 7})
    job["metadata"]["name"] = "probe"
    try:
        api.create("FineTuneJob", namespace, job, DRY)
    except Refused:
        return True
    return False


def test_kubectl_apply_and_server_side_apply_both_work(control_plane, api, namespace):
    text = json.dumps(document())
    for way in ((), ("--server-side",)):
        control_plane.kubectl("apply", "-n", namespace, *way, "-f", "-", input=text)
    control_plane.kubectl("delete", "ftj", "smallest", "-n", namespace)


def test_kubectl_refuses_unknown_fields(control_plane, api, namespace):
    done = control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(document(training={"epoch": 1})),
                                 check=False)
    assert 'unknown field "spec.training.epoch"' in done.stderr


COLUMNS = ["NAME", "PHASE", "REASON", "METHOD", "MODEL", "PROGRESS", "LOSS", "COST", "ETA", "AGE"]


def _condition(kind, status="True", reason="Running", message="attempt 1 runs on node-a"):
    return {"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}


def test_kubectl_shows_the_columns_and_explains_the_fields(control_plane, api, stored):
    api.patch("FineTuneJob", stored, "smallest", {"status": {
        "phase": "Running", "progress": {"step": 1, "totalSteps": 4, "percent": 25, "loss": 0.5},
        "conditions": [_condition("Validated", reason="Valid"), _condition("Progressing")],
        "cost": {"spent": "0.1", "hourlyRate": "1"}}}, "status")
    shown = control_plane.kubectl("get", "ftj", "-n", stored).stdout
    header, row = shown.splitlines()
    by_category = control_plane.kubectl("get", "finetune", "-n", stored).stdout.splitlines()[1]
    without_kind = by_category.removeprefix("finetunejob.finetune.dev/")
    assert without_kind.split()[:-1] == row.split()[:-1], "the category; the age may have changed"
    assert header.split() == COLUMNS
    assert row.split()[:8] == ["smallest", "Running", "Running", "LoRA", "owner/name", "25", "0.5", "0.1"]
    assert "attempt 1 runs on node-a" in control_plane.kubectl("get", "ftj", "-n", stored, "-o", "wide").stdout
    explained = control_plane.kubectl("explain", "ftj.spec.method").stdout
    assert "How the model is trained." in explained
    assert "arXiv:2305.14314" in explained


def test_a_job_that_no_operator_has_seen_has_a_phase_and_a_reason(control_plane, api, namespace):
    api.create("FineTuneJob", namespace, document())
    row = control_plane.kubectl("get", "ftj", "-n", namespace).stdout.splitlines()[1]
    assert row.split()[:3] == ["smallest", "Pending", "NotLookedAt"]
    read = view_job(api.get("FineTuneJob", namespace, "smallest"))
    first = set_conditions(read.status, ConditionReport(Phase.PREFLIGHT, Reason.PREFLIGHT, "checked"), 1, NOW)
    assert {one.last_transition_time for one in first.conditions} == {NOW}, "the apiserver's times are no operator's"


def test_kubectl_wait_returns_at_either_end(control_plane, api, stored):
    for phase in (Phase.FAILED, Phase.SUCCEEDED):
        known = view_job(api.get("FineTuneJob", stored, "smallest")).status
        told = set_conditions(known, ConditionReport(phase, Reason.BAD_DATA, "row 7"), 1, NOW)
        api.patch("FineTuneJob", stored, "smallest", {"status": dump_status(told)}, "status")
        control_plane.kubectl("wait", "--for=condition=Finished", "ftj/smallest", "-n", stored, "--timeout=10s")


@pytest.mark.parametrize("told", [
    ConditionReport(Phase.PENDING, Reason.BAD_DATA, "row 7", valid=False),
    ConditionReport(Phase.SUSPENDED, Reason.SUSPENDED, "suspended"),
    ConditionReport(Phase.FAILED, Reason.BAD_DATA, "row 7")], ids=lambda told: told.phase)
def test_kubectl_wait_can_return_wherever_nothing_more_happens_by_itself(control_plane, api, stored, told):
    waiting = ("wait", "--for=condition=Reconciling=false", "ftj/smallest", "-n", stored)
    assert control_plane.kubectl(*waiting, "--timeout=0s", check=False).returncode, "not before it is looked at"
    known = view_job(api.get("FineTuneJob", stored, "smallest")).status
    api.patch("FineTuneJob", stored, "smallest", {"status": dump_status(set_conditions(known, told, 1, NOW))}, "status")
    control_plane.kubectl(*waiting, "--timeout=10s")
    api.patch("FineTuneJob", stored, "smallest", {"spec": {"runPolicy": {"suspend": True}}})
    assert control_plane.kubectl(*waiting, "--timeout=0s", check=False).returncode, "of a generation before"


def test_the_statuses_of_earlier_releases_are_taken_and_no_type_twice(api, stored):
    kinds = ("Validated", "Admitted", "Progressing", "Reconciling", "Succeeded", "Failed", "Stalled")
    told = [_condition(kind) for kind in kinds]
    taken = api.patch("FineTuneJob", stored, "smallest", {"status": {"conditions": told}}, "status")
    assert taken["status"]["conditions"] == told
    with pytest.raises(Refused, match="Duplicate value"):
        api.patch("FineTuneJob", stored, "smallest", {"status": {"conditions": [*told, told[0]]}}, "status")


def test_a_job_of_an_earlier_release_is_told_of_after_an_upgrade(control_plane, api, namespace):
    """Its conditions were one value to their writer; now each is one, and the definition has more of them."""
    def of_earlier_release(crd):
        status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        conditions = status["properties"]["conditions"]
        del status["default"], conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]
        conditions["items"]["properties"]["type"]["enum"].remove("Finished")
        return crd

    def write(job, status):
        path = f"{api.path('FineTuneJob', namespace, 'smallest')}/status?fieldManager=finetune-operator"
        return api("PUT", path, {**job, "status": status})

    def takes_it():
        return "phase" in api.create("FineTuneJob", namespace, {**document(), "metadata": {"name": "probe"}}, DRY).get(
            "status", {})

    old = [_condition(kind) for kind in ("Validated", "Admitted", "Progressing", "Reconciling")]
    try:
        control_plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(
            of_earlier_release(yaml.safe_load(CRD.read_text()))))
        wait_for(lambda: not takes_it(), "the earlier definition to be in force")
        job = write(api.create("FineTuneJob", namespace, document()), {"phase": "Running", "conditions": old})
    finally:
        control_plane.kubectl("apply", "--server-side", "-f", CRD)
        wait_for(takes_it, "the definition to be in force again")
    assert api.get("FineTuneJob", namespace, "smallest")["status"]["conditions"] == old
    failed = ConditionReport(Phase.FAILED, Reason.BAD_DATA, "row 7")
    told = set_conditions(view_job({**job, "kind": "FineTuneJob"}).status, failed, 1, NOW)
    written = write(job, dump_status(told))["status"]["conditions"]
    assert [one["type"] for one in written] == [
        "Validated", "Admitted", "Progressing", "Reconciling", "Finished", "Succeeded", "Failed", "Stalled"]
