"""The main job on a cluster, from nothing: control plane, node, S3, Prometheus, the chart, the job.

Run it by `make demo-cluster`. It uses the cluster of KUBECONFIG if one is set (tests/cluster/README.md says what that
needs), else one that it brings up on this machine: real etcd, apiserver, controller manager, scheduler, containerd and
kubelet. What is not real is said: there is no GPU, so the job asks for the accelerator `cpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from finetune_api.rules import merge_patch

from charts.generate import CHART
from tests.chart.release import helm
from tests.cluster.binaries import Unavailable, command
from tests.cluster.cluster import Cluster
from tests.cluster.existing import ExistingCluster
from tests.cluster.waiting import wait_for
from tests.e2e.installed import image_value
from tests.s3 import S3Server, free_ports, running_server

ROOT = Path(__file__).parents[1]
INPUTS, RESULTS = ROOT / "build" / "demo", ROOT / "build" / "demo-cluster"
SYSTEM, JOB = "finetune-system", "quickstart"
BEGAN = time.monotonic()
AnyCluster = Cluster | ExistingCluster


def main() -> int:
    """Everything, in order."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    keep = arguments.parse_args().keep
    try:
        with _cluster() as cluster, _s3(cluster) as s3:
            _install(cluster, s3)
            with _prometheus(cluster) as prometheus:
                namespace = cluster.namespace("finetune-demo", "restricted")
                succeeded = _run_job(cluster, s3, namespace)
                _show_results(cluster, s3, prometheus, namespace)
                if keep:
                    _wait_for_interrupt(cluster, prometheus)
    except Unavailable as missing:
        sys.stderr.write(f"demo-cluster: {missing}\n")
        return 1
    return 0 if succeeded else 1


@contextmanager
def _cluster() -> Iterator[AnyCluster]:
    if "KUBECONFIG" in os.environ:
        _say(f"using the cluster of {os.environ['KUBECONFIG']}")
        cluster: AnyCluster = ExistingCluster()
    else:
        _say("starting etcd, apiserver, controller manager, scheduler and a node (containerd, kubelet, kube-proxy)")
        cluster = Cluster(1)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def _s3(cluster: AnyCluster) -> Iterator[S3Server]:
    _say("starting an S3 server (seaweedfs), and putting model and judgments into it")
    with running_server(cluster.control_plane.folder / "seaweedfs", cluster.address) as server:
        client = server.client()
        for bucket in ("inputs", "adapters"):
            client.create_bucket(Bucket=bucket)
        [gguf] = INPUTS.glob("*.gguf")
        client.upload_file(str(gguf), "inputs", "smollm2.gguf")
        for rows in (INPUTS / "judgments").glob("*.jsonl"):
            client.upload_file(str(rows), "inputs", f"judgments/{rows.name}")
        yield server


def _install(cluster: AnyCluster, s3: S3Server) -> None:
    _say("building the images that changed (the trainer's, the first time: 4 minutes)")
    operator, trainer = (cluster.image(part) for part in ("operator", "trainer"))
    _say("helm install finetune charts/finetune-operator -n finetune-system --create-namespace")
    plane = cluster.control_plane
    sys.stdout.write(helm("upgrade", "--install", "finetune", CHART, "--namespace", SYSTEM, "--create-namespace",
                          "--wait", "--timeout", "5m", values=_values(operator, trainer, s3), home=plane.folder,
                          kubeconfig=plane.kubeconfig))


def _values(operator: str, trainer: str, s3: S3Server) -> dict[str, Any]:
    """The chart's values, as far as this place differs from a production cluster."""
    server = urlsplit(s3.endpoint)
    return {
        "replicaCount": 1, "image": image_value(operator), "trainerImage": image_value(trainer),
        "settings": {
            # Two cores carry the control plane, too.
            "accelerators": {"cpu": {"cpu": "500m", "hostMemory": "5Gi"}},
            "trainerNetwork": {"destinations": [{"cidr": f"{server.hostname}/32", "ports": [server.port]}]}}}


@contextmanager
def _prometheus(cluster: AnyCluster) -> Iterator[str]:
    """A Prometheus that reads the operator through a forwarded port; its address."""
    run, folder = cluster.control_plane.run, cluster.control_plane.folder
    metrics, own = free_ports(2)
    run.start("forward-metrics", [
        *command("kubectl"), f"--kubeconfig={cluster.control_plane.kubeconfig}", "port-forward", "-n", SYSTEM,
        "deployment/finetune-operator", f"{metrics}:metrics"])
    settings = folder / "prometheus.yml"
    settings.write_text(yaml.safe_dump({
        "global": {"scrape_interval": "2s"},
        "scrape_configs": [{"job_name": "finetune-operator", "honor_labels": True,
                            "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}]}))
    address = f"http://127.0.0.1:{own}"
    server = run.start("prometheus", [
        "prometheus", f"--config.file={settings}", f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{own}"])
    wait_for(lambda: server.running() and _ask(address, "up") is not None, "Prometheus to answer")
    yield address


def _ask(prometheus: str, query: str) -> list[Any] | None:
    """What a query finds; None while there is no answer."""
    try:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False)
        result: list[Any] = answer.json()["data"]["result"]
    except (httpx.TransportError, ValueError, KeyError):
        return None
    return result


def _job(s3: S3Server, namespace: str) -> dict[str, Any]:
    """The quick-start's job, with model, rows and output in S3."""
    job = yaml.safe_load((ROOT / "deploy" / "samples" / "quickstart.yaml").read_text())
    merged = merge_patch(job, {"metadata": {"namespace": namespace}, "spec": {
        "model": {"source": "s3://inputs/smollm2.gguf"},
        "dataset": {"source": "s3://inputs/judgments/"},
        "compute": {"accelerator": "cpu"},
        "output": {"uri": "s3://adapters/demo",
                   "s3": {"endpointUrl": s3.endpoint, "credentialsSecretRef": {"name": "s3"}}}}})
    return dict(merged)


def _run_job(cluster: AnyCluster, s3: S3Server, namespace: str) -> bool:
    """Apply it, show the watch, and say whether it succeeded."""
    kubectl = cluster.kubectl
    kubectl("create", "secret", "generic", "s3", "-n", namespace,
            *(f"--from-literal={key}={value}" for key, value in s3.environment().items()))
    file = RESULTS / "finetunejob.yaml"
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(_job(s3, namespace), sort_keys=False))
    _say(f"kubectl apply -f {file.relative_to(ROOT)}")
    kubectl("apply", "-f", file)
    _say("kubectl get ftj -w")
    watch = subprocess.Popen([*command("kubectl"), "get", "ftj", "-n", namespace, "-w"],
                             env={**os.environ, "KUBECONFIG": str(cluster.control_plane.kubeconfig)})
    try:
        wait_for(lambda: _ended(_status(cluster, namespace)), "the job to end", 3600)
    finally:
        watch.terminate()
        watch.wait()
    return _status(cluster, namespace).get("phase") == "Succeeded"


def _status(cluster: AnyCluster, namespace: str) -> dict[str, Any]:
    status: dict[str, Any] = cluster.get("finetunejob", JOB, "-n", namespace).get("status", {})
    return status


def _ended(status: dict[str, Any]) -> bool:
    """Whether nothing more will happen by itself: finished, or refused until the spec is edited."""
    return "completionTime" in status or any(
        one["type"] == "Stalled" and one["status"] == "True" for one in status.get("conditions", ()))


def _show_results(cluster: AnyCluster, s3: S3Server, prometheus: str, namespace: str) -> None:
    sys.stdout.write(cluster.kubectl("describe", "finetunejob", JOB, "-n", namespace).stdout)
    status = _status(cluster, namespace)
    if "adapter" not in status:
        return
    bucket, _, adapter = status["adapter"]["uri"].removeprefix("s3://").partition("/")
    results = adapter.rpartition("/")[0]
    client = s3.client()
    for entry in client.list_objects_v2(Bucket=bucket, Prefix=results)["Contents"]:
        target = RESULTS / entry["Key"].removeprefix(f"{results}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, entry["Key"], str(target))
    _say(f"evaluation: {json.dumps(status['evaluation'], indent=2)}")
    _say(f"adapter  {status['adapter']['uri']}  (a copy: {(RESULTS / 'adapter').relative_to(ROOT)})")
    _say(f"report   {(RESULTS / 'report.html').relative_to(ROOT)}")
    for query in ('finetune_jobs{phase="Succeeded"} > 0', "finetune_job_cost_spent", "finetune_job_loss_nats"):
        for series in _found(prometheus, query):
            labels = ", ".join(f'{key}="{value}"' for key, value in series["metric"].items() if key != "__name__")
            _say(f"metric   {series['metric'].get('__name__', query)}{{{labels}}} {series['value'][1]}")


def _found(prometheus: str, query: str) -> list[Any]:
    """What a query finds, once Prometheus has read it."""
    return wait_for(lambda: _ask(prometheus, query) or [], f"Prometheus to know {query}")


def _wait_for_interrupt(cluster: AnyCluster, prometheus: str) -> None:
    _say(f"KUBECONFIG={cluster.control_plane.kubeconfig}  Prometheus: {prometheus}  (Ctrl-C ends everything)")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _say(what: str) -> None:
    sys.stdout.write(f"[{time.monotonic() - BEGAN:5.0f} s] {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
