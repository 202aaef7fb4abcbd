"""What the end-to-end tests share: a real node, the trainer's real image, a real S3 server with a model and rows."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from finetune_operator.names import SELECTOR

from tests.cluster.existing import ExistingCluster
from tests.e2e.installed import Installed
from tests.models import save_tiny_model, write_rows
from tests.operator.api import Api
from tests.operator.operators import Operator
from tests.s3 import running_server

FAULTS = Path(__file__).parents[1] / "trainer/faults.py"
SITECUSTOMIZE = "import os, injected_fault; injected_fault.install_fault(os.environ, simulates_accelerator=True)"
CATALOGUE = {
    name: {"nodeSelector": {"nvidia.com/gpu.product": product}, "memory": "24Gi", "hourlyPrice": "1.00", "cpu": "500m",
           "hostMemory": "3Gi"}
    for name, product in (("nvidia-l4", "NVIDIA-L4"), ("nvidia-h100", "NVIDIA-H100-80GB-HBM3"))
}
"""The node has two cores of a test machine, not those of an L4's host."""


def with_environment(**variables):
    """A pod template in which the trainer has variables, and one thread: others compute on the node's cores too."""
    env = [{"name": name, "value": value} for name, value in {"OMP_NUM_THREADS": "1", **variables}.items()]
    return {"spec": {"containers": [{"name": "trainer", "env": env}]}}


def on_simulated_accelerator(fault=""):
    """A pod template in which the node's processors act as its GPU, which is there in name only; with a fault, if any.

    Python imports `sitecustomize` before the trainer's own code. Every namespace of the tests has it in a ConfigMap.
    """
    template = with_environment(FINETUNE_FAULT=fault, PYTHONPATH="/faults")
    template["spec"]["volumes"] = [{"name": "faults", "configMap": {"name": "faults"}}]
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "faults", "mountPath": "/faults", "readOnly": True}]
    return template


class JobEnvironment:
    """A cluster in which jobs run from apply to S3.

    Attributes:
        cluster: its control plane, nodes and registry.
        api: its apiserver.
        s3: the S3 server.
        bucket: with `tiny/` (a random Llama), `rows.jsonl`, and room for results below `out/`.
        image: the trainer's.
        installed: the operator in its pod.
        used: namespaces of the test.
    """

    def __init__(self, cluster, api, s3) -> None:
        self.cluster, self.api, self.s3 = cluster, api, s3
        self.bucket = s3.new_bucket()
        self.used: list[str] = []
        self.image = cluster.image("trainer")
        self.installed = Installed(cluster, {
            "accelerators": CATALOGUE, "startTimeout": "10m", "terminationGrace": "60s", "progressInterval": "1s",
            "retryDelay": "1s", "podTemplate": on_simulated_accelerator(), "trainerNetwork": {"destinations": [
                {"cidr": f"{cluster.address}/32", "ports": [urlsplit(s3.endpoint).port]}]}})

    def settings(self, **changes):
        """The operator's settings for this environment."""
        return {"trainerImage": self.image, "accelerators": CATALOGUE, "startTimeout": "10m",
                "terminationGrace": "60s", "podTemplate": on_simulated_accelerator(),
                "preflight": {"cpu": "500m", "memory": "3Gi"}, **changes}

    def operator(self, identity="operator", namespace=None, fault=None, **settings):
        """An operator with settings or faults of its own, as a process with the rights of the installed one."""
        self.installed.rest()
        return Operator(self.cluster.control_plane, namespace, settings=self.settings(**settings), fault=fault,
                        identity=identity, kubeconfig=self.installed.account)

    def upload(self, folder, prefix):
        """Put a folder's files into the bucket."""
        client = self.s3.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), self.bucket, f"{prefix}/{path.relative_to(folder)}")

    def read(self, uri):
        """An object of the bucket."""
        key = uri.removeprefix(f"s3://{self.bucket}/")
        return self.s3.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def results(self, namespace):
        """Every object that the jobs of a namespace wrote, as text, by its key."""
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket,
                                                                           Prefix=f"out/{namespace}/")
        return {item["Key"]: self.read(item["Key"]).decode("latin-1") for page in pages
                for item in page.get("Contents", ())}

    def namespace(self):
        """A fresh namespace at the restricted level, with the S3 writer's Secret and the trainer's faults."""
        name = self.cluster.namespace(pod_security="restricted")
        self.used.append(name)
        values = self.s3.environment()
        self.cluster.kubectl("create", "secret", "generic", "s3", "-n", name,
                             *(f"--from-literal={key}={value}" for key, value in values.items()))
        self.cluster.kubectl("create", "configmap", "faults", "-n", name, f"--from-file=injected_fault.py={FAULTS}",
                             f"--from-literal=sitecustomize.py={SITECUSTOMIZE}")
        return name


@pytest.fixture(scope="session")
def environment(node, tmp_path_factory):
    """One real node with one accelerator."""
    api = Api(node.control_plane)
    with running_server(tmp_path_factory.mktemp("seaweedfs"), node.address) as s3:
        environment = JobEnvironment(node, api, s3)
        folder = tmp_path_factory.mktemp("inputs")
        save_tiny_model(folder / "tiny")
        write_rows(folder / "rows.jsonl")
        environment.upload(folder, "in")
        yield environment
        environment.installed.remove()
    api.close()


@pytest.fixture
def second_node(environment):
    """One more node with one accelerator, for a test."""
    if isinstance(environment.cluster, ExistingCluster):
        pytest.skip("NOT TESTED: a second node, which is not added to the cluster of KUBECONFIG")
    node = environment.cluster.add_node()
    yield node
    environment.cluster.remove_node(node)


@pytest.fixture(autouse=True)
def free_nodes(request):
    """The accelerators are free again after a test, also after one that failed."""
    yield
    if "environment" in request.fixturenames:
        environment = request.getfixturevalue("environment")
        while environment.used:  # Nobody else's: the cluster may be somebody's.
            space = f"--namespace={environment.used.pop()}"
            environment.cluster.kubectl("delete", "finetuneexperiments,finetunejobs", "--all", space, "--wait=false")
            environment.cluster.kubectl("delete", "pods", space, f"--selector={SELECTOR}", "--grace-period=1")


@pytest.fixture
def operator(environment):
    """The installed operator, at work in every namespace."""
    environment.installed.run()
    return environment.installed


def tiny_spec(environment, **sections):
    """A small job on the tiny model, whose data, model and output are in S3."""
    from finetune_api.rules import merge_patch

    base = {
        "model": {"source": f"s3://{environment.bucket}/in/tiny"},
        "dataset": {"source": f"s3://{environment.bucket}/in/rows.jsonl", "prompt": "{{ facts }}",
                    "completion": "{{ label | tojson }}", "evaluationFraction": 0.2,
                    "answerFormat": {"type": "json"}},
        "method": {"type": "LoRA", "lora": {"rank": 4}},
        "training": {"maxSteps": 4, "batchSize": 4, "maxLength": 256, "checkpointEvery": 2, "learningRate": 0.001},
        "evaluation": {"samples": 4, "maxNewTokens": 8, "metrics": ["loss", "jsonValid"]},
        "output": {"uri": f"s3://{environment.bucket}/out",
                   "s3": {"endpointUrl": environment.s3.endpoint, "credentialsSecretRef": {"name": "s3"}}},
        "runPolicy": {"preflight": "Skip"},
    }
    return merge_patch(json.loads(json.dumps(base)), sections)
