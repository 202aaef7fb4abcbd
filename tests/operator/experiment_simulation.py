"""An experiment and its jobs as an apiserver stores them and an operator changes them, without either."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

from finetune_api.definition.fitting_status import fitting_experiment_status
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.experiment.status import RankedVariant
from finetune_api.messages import Outcome
from finetune_api.rules import merge_patch
from finetune_operator.cluster.cache.attempts import reports_of
from finetune_operator.decide.experiment.actions import PatchOwned
from finetune_operator.decide.experiment.plan import plan_experiment
from finetune_operator.observed.experiment import ExperimentObservation, read_experiment, view_experiment
from finetune_operator.observed.job import view_job

from tests.api.experiments import experiment_document
from tests.operator.objects import NOW, SETTINGS, stamp

SKIP = {"runPolicy": {"preflight": "Skip"}}


class Simulation:
    """An experiment and its jobs, as an apiserver stores them and an operator changes them."""

    def __init__(self, *names, template=SKIP, **sections):
        body = experiment_document(variants=variants(*names), template={"spec": template}, **sections)
        body["metadata"] |= {"namespace": "team", "uid": "experiment", "generation": 1, "resourceVersion": "1",
                             "creationTimestamp": stamp(0)}
        self.raw: dict[str, Any] = {**body, "status": {}}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[str] = []
        self.gone: list[Decimal] = []
        self.finished: set[str] = set()
        self.passes = 0
        self.children: dict[tuple[str, str], dict[str, Any]] = {}
        self.report_ends: list[tuple[int, ReportedExperiment | None]] = []
        self.reports = 0
        self.settings = SETTINGS

    def decide(self):
        view = view_experiment(self.raw)
        jobs = {name: view_job(raw) for name, raw in self.jobs.items()}
        reports = tuple(reports_of(list(self.children.values()), ()))
        return plan_experiment(ExperimentObservation(view, read_experiment(view), jobs, reports), self.settings,
                               self.now)

    @property
    def now(self):
        return NOW + timedelta(seconds=self.passes)

    def run(self, killed_after=None):
        """One pass; killed after some of its actions, before the status is written."""
        self.passes += 1
        decided = self.decide()
        for action in decided.actions[:killed_after]:
            self._act(action)
        if killed_after is not None and killed_after <= len(decided.actions):
            return
        self.raw["status"] = fitting_experiment_status(decided.status.model_dump(mode="json", exclude_none=True))
        for one in decided.deletions:
            if one.kind == "FineTuneJob":
                self.delete(one.name)
            else:
                self.children.pop((one.kind, one.name), None)
                self.children.pop(("Pod", one.name), None)

    def settle(self):
        """Passes until nothing changes."""
        for _ in range(10):
            before = copy.deepcopy((self.jobs, self.children, self.raw["status"]))
            self.run()
            self.observe_jobs()
            self.end_reports()
            if before == (self.jobs, self.children, self.raw["status"]):
                return
        raise AssertionError("passes without news go on changing something")

    def hold(self):
        """The pass that creates the jobs, and what the operator writes about them."""
        self.run()
        self.observe_jobs()

    def _act(self, action):
        if not isinstance(action, PatchOwned):
            name = action.manifest["metadata"]["name"]
            if action.manifest["kind"] != "FineTuneJob":
                self._create_child(action.manifest, name)
                return
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

    def _create_child(self, manifest, name):
        key = manifest["kind"], name
        if key not in self.children:
            metadata = {**manifest["metadata"], "uid": f"uid-of-{name}", "creationTimestamp": stamp(self.passes)}
            self.children[key] = {**manifest, "metadata": metadata}

    def end_reports(self):
        """End the pods that write a report: as the test wants the next one to end, else with a page."""
        for job in [raw for (kind, _), raw in self.children.items() if kind == "Job" and "status" not in raw]:
            self.reports += 1
            code, told = self.report_ends.pop(0) if self.report_ends else (0, self.reported())
            job["status"] = {"conditions": [{"type": "Failed" if code else "Complete", "status": "True",
                                             "lastTransitionTime": stamp(self.passes)}]}
            self.children["Pod", job["metadata"]["name"]] = {
                "kind": "Pod", "spec": {"nodeName": "node"},
                "metadata": {**job["metadata"], "ownerReferences": [{"uid": job["metadata"]["uid"]}]},
                "status": {"containerStatuses": [{"name": "trainer", "state": {"terminated": {
                    "exitCode": code, "message": told.to_bytes().decode() if told else "",
                    "finishedAt": stamp(self.passes)}}}]}}

    def reported(self):
        """What a pod tells that found the first two variants of the status's ranking clearly different."""
        ranking = [RankedVariant.model_validate_json(json.dumps(one)) for one in self.raw["status"]["ranking"]]
        best = [one.model_copy(update={"low": one.score - 1, "high": one.score + 1, "rows": 8}) for one in ranking[:2]]
        return ReportedExperiment(outcome=Outcome.SUCCEEDED, message="complete", report="s3://bucket/report.html",
                                  winner=best[0].variant, conclusion=f"{best[0].variant} wins.", ranking=tuple(best))

    def delete(self, name):
        raw = self.jobs.pop(name)
        self.gone.append(spent_by(raw))
        if has_ended(raw):
            self.finished.add(name)

    def observe_jobs(self):
        """What the operator writes about jobs that wait."""
        for raw in self.jobs.values():
            raw.setdefault("status", {})["observedGeneration"] = raw["metadata"]["generation"]

    def running(self):
        return [raw for raw in self.jobs.values() if not raw["spec"]["runPolicy"]["suspend"] and not has_ended(raw)]

    def advance(self, raw, share, score=None):
        """A running job spends a share of its limit, and ends at a score."""
        limit = Decimal(raw["spec"].get("budget", {}).get("maxCost", 10))
        spent = spent_by(raw) + max(limit - spent_by(raw), Decimal(0)) * Decimal(str(share))
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


def variants(*names):
    return [{"name": name, "patch": {"training": {"seed": number}}} for number, name in enumerate(names)]


def spent_by(raw):
    return Decimal(raw.get("status", {}).get("cost", {}).get("spent", 0))


def committed_by(raw):
    """What a job has spent, and what it may spend if it was started."""
    started = "startTime" in raw.get("status", {}) or not raw["spec"]["runPolicy"]["suspend"]
    limit = Decimal(raw["spec"].get("budget", {}).get("maxCost", 0)) if started and not has_ended(raw) else Decimal(0)
    return max(spent_by(raw), limit)


def has_ended(raw):
    return "completionTime" in raw.get("status", {})


def checked(cost):
    return {"phase": "Suspended", "preflight": {"generation": 1, "checkedHash": "0" * 64, "cost": cost}}
