"""A job on the real apiserver: applied as a user does it, its pods ended as kubelets report it."""

from __future__ import annotations

from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.messages import Outcome, PreflightResult, Result
from finetune_api.rules import merge_patch
from finetune_api.status import PublishedAdapter

from tests.api.jobs import document
from tests.cluster.waiting import wait_for

ADAPTER = PublishedAdapter(uri="s3://bucket/prefix/x", sha256="0" * 64, size_bytes=1, base_model="owner/name")
Said = Result | PreflightResult | ReportedExperiment
"""What a pod leaves as its termination message."""
DONE = Result(outcome=Outcome.SUCCEEDED, message="trained 4 steps and published the adapter", step=4, total_steps=4,
              adapter=ADAPTER)


class Applied:
    """An object of a user in one namespace, with a status."""

    kind: str

    def __init__(self, api, namespace, name):
        self.api, self.namespace, self.name = api, namespace, name

    def change(self, **sections):
        return self.api.patch(self.kind, self.namespace, self.name, {"spec": sections})

    def status(self):
        return self.api.get(self.kind, self.namespace, self.name).get("status", {})

    def until(self, phase, reason=None, seconds=60):
        def there():
            status = self.status()
            telling = {one["type"]: one for one in status.get("conditions", [])}.get("Progressing", {})
            assert status.get("phase") == phase, (status.get("phase"), telling)
            assert reason in (None, telling.get("reason")), telling
            return status
        return wait_for(there, f"{self.name} to be {phase}", seconds)


class Work(Applied):
    """What happens to one job in one namespace."""

    kind = "FineTuneJob"

    def __init__(self, api, namespace, name="tune"):
        super().__init__(api, namespace, name)

    def apply(self, **sections):
        body = document(**merge_patch({"runPolicy": {"preflight": "Skip"}}, sections))
        body["metadata"]["name"] = self.name
        return self.api.create("FineTuneJob", self.namespace, body)

    def jobs(self):
        return sorted(job["metadata"]["name"] for job in self.api.list("Job", self.namespace)
                      if job["metadata"]["name"].startswith(self.name))

    def running_pod(self, number=1):
        def there():
            for pod in self.api.list("Pod", self.namespace):
                if pod["metadata"]["labels"]["job-name"] == f"{self.name}-{number}":
                    assert pod["status"].get("phase") == "Running", pod["status"]
                    return pod
            return None
        return wait_for(there, f"the pod of attempt {number} to run")

    def running_pods(self, count, number=1):
        """All pods of an attempt of several nodes, once they run."""
        def there():
            pods = [pod for pod in self.api.list("Pod", self.namespace)
                    if pod["metadata"]["labels"]["job-name"] == f"{self.name}-{number}"]
            return pods if [pod["status"].get("phase") for pod in pods] == ["Running"] * count else None
        return wait_for(there, f"the {count} pods of attempt {number} to run")

    def end(self, code, said: Said | None = None, number=1, reason="Error"):
        """Ends an attempt's pod as a kubelet reports it."""
        self.end_pod(self.running_pod(number), code, said, reason)

    def end_pod(self, pod, code, said: Said | None = None, reason="Error"):
        """Ends a pod as a kubelet reports it."""
        terminated = {"exitCode": code, "reason": reason, "finishedAt": pod["status"]["startTime"],
                      "startedAt": pod["status"]["startTime"],
                      "message": said.to_bytes().decode() if said else ""}
        container = {**pod["status"]["containerStatuses"][0], "state": {"terminated": terminated}, "ready": False}
        self.api.patch("Pod", self.namespace, pod["metadata"]["name"], {"status": {
            "phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}}, "status")

    def events(self):
        return [event for event in self.api.list("Event", self.namespace)
                if event["involvedObject"].get("kind") == "FineTuneJob"
                and event["involvedObject"]["name"] == self.name]
