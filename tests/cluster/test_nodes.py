"""Real nodes under the other tests: do pods run, end, find each other, and go away?"""

from __future__ import annotations

import json

import httpx
import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.network import ip
from tests.cluster.waiting import wait_for

# The first one waits while another worker builds images.
pytestmark = pytest.mark.timeout(1800)

SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["HOSTNAME"].encode())
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
# Asks until it is answered: the way to a Service opens some time after the Service is made.
CLIENT = """
import sys, time, urllib.request
for _ in range(100):
    try:
        answer = urllib.request.urlopen(sys.argv[1], timeout=2).read().decode()
        break
    except OSError as error:
        answer = repr(error)
        time.sleep(0.2)
open("/dev/termination-log", "w").write(answer)
"""


def pod(cluster: Cluster, program: str, *arguments: str, node: str | None = None, accelerators: int = 0) -> dict:
    """The spec of a pod that the restricted level admits."""
    resources = {"limits": {"nvidia.com/gpu": str(accelerators)}} if accelerators else {}
    return {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {"kubernetes.io/hostname": node} if node else {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "containers": [{
            "name": "main", "image": cluster.image("python"), "command": ["python3", "-c", program, *arguments],
            "resources": resources,
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}},
        }],
    }


def run_pod(cluster: Cluster, namespace: str, name: str, spec: dict) -> None:
    cluster.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))


def ended(cluster: Cluster, namespace: str, selector: str) -> dict:
    """How the container of the one pod that the selector finds ended."""
    def state() -> dict | None:
        [found] = cluster.get("pods", "-n", namespace, "-l", selector)["items"] or [{"status": {}}]
        statuses = found["status"].get("containerStatuses")
        return statuses[0]["state"].get("terminated") if statuses else None

    return wait_for(state, f"the pod {selector} to end", 90)


def running_address(cluster: Cluster, namespace: str, name: str) -> str:
    def address() -> str | None:
        status = cluster.get("pod", name, "-n", namespace)["status"]
        return status.get("podIP") if status["phase"] == "Running" else None

    return wait_for(address, f"the pod {name} to run", 90)


def test_a_restricted_job_with_an_accelerator_runs_and_tells_how_it_ended(real_node):
    namespace = real_node.namespace(pod_security="restricted")
    program = 'import os, sys; open("/dev/termination-log", "w").write(f"as {os.getuid()}"); sys.exit(42)'
    real_node.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fails"},
        "spec": {
            "backoffLimit": 6,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]},
            "template": {"spec": pod(real_node, program, accelerators=1)},
        },
    }))
    container = ended(real_node, namespace, "job-name=fails")
    assert (container["exitCode"], container["message"]) == (42, "as 1000")

    def reasons() -> list[str]:
        conditions = real_node.get("job", "fails", "-n", namespace)["status"].get("conditions", [])
        return [condition["reason"] for condition in conditions if condition["type"] == "Failed"]

    assert wait_for(reasons, "the job to have failed") == ["PodFailurePolicy"]


def test_a_pod_that_the_restricted_level_forbids_is_refused(real_node):
    namespace = real_node.namespace(pod_security="restricted")
    spec = pod(real_node, "pass")
    del spec["securityContext"]
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        run_pod(real_node, namespace, "privileged", spec)


def test_this_machine_reaches_a_pod_and_reads_its_log(real_node):
    namespace = real_node.namespace()
    run_pod(real_node, namespace, "server", pod(real_node, SERVER))
    address = running_address(real_node, namespace, "server")

    def answer() -> str:
        try:
            return httpx.get(f"http://{address}:8080/", trust_env=False, timeout=2).text
        except httpx.TransportError:
            return ""

    assert wait_for(answer, "the pod to answer") == "server"
    assert "GET /" in real_node.kubectl("logs", "-n", namespace, "server").stdout


def test_a_service_leads_to_a_pod_also_from_the_pod_itself(real_node):
    namespace = real_node.namespace()
    real_node.kubectl("create", "service", "clusterip", "server", "--tcp=80:8080", "-n", namespace)
    service = real_node.get("service", "server", "-n", namespace)["spec"]["clusterIP"]
    run_pod(real_node, namespace, "server", pod(real_node, SERVER))
    running_address(real_node, namespace, "server")
    run_pod(real_node, namespace, "client", pod(real_node, CLIENT, f"http://{service}/"))
    assert ended(real_node, namespace, "app=client")["message"] == "server"
    looped = real_node.kubectl("exec", "-n", namespace, "server", "--", "python3", "-c",
                               f"import urllib.request as u; print(u.urlopen('http://{service}/', timeout=5).read())")
    assert "server" in looped.stdout


def test_a_pod_reaches_the_apiserver_and_a_server_on_this_machine(real_node):
    namespace = real_node.namespace()
    program = ("import ssl, sys, urllib.request as u; c = ssl._create_unverified_context();"
               "answers = [u.urlopen(url, context=c if url.startswith('https') else None, timeout=10).status "
               "for url in sys.argv[1:]]; open('/dev/termination-log', 'w').write(str(answers))")
    run_pod(real_node, namespace, "asks", pod(real_node, program, "https://10.96.0.1/version",
                                              f"http://{real_node.registry}/v2/"))
    assert ended(real_node, namespace, "app=asks")["message"] == "[200, 200]"


def heartbeat(node: dict) -> str:
    """When the kubelet last wrote that it is ready."""
    return next(condition["lastHeartbeatTime"] for condition in node["status"]["conditions"]
                if condition["type"] == "Ready")


def test_the_accelerator_stays_on_offer_when_the_kubelet_reports(real_node):
    [before] = real_node.get("nodes")["items"]
    assert before["status"]["capacity"]["nvidia.com/gpu"] == "1"

    def reported() -> dict | None:
        [node] = real_node.get("nodes")["items"]
        return node if heartbeat(node) > heartbeat(before) else None

    status = wait_for(reported, "the kubelet's next report", 60)["status"]
    assert status["capacity"]["nvidia.com/gpu"] == status["allocatable"]["nvidia.com/gpu"] == "1"


def test_pods_talk_across_two_nodes(two_nodes):
    namespace = two_nodes.namespace()
    two_nodes.kubectl("create", "service", "clusterip", "server", "--tcp=80:8080", "-n", namespace)
    service = two_nodes.get("service", "server", "-n", namespace)["spec"]["clusterIP"]
    run_pod(two_nodes, namespace, "server", pod(two_nodes, SERVER, node="node-0"))
    address = running_address(two_nodes, namespace, "server")
    for name, url in (("direct", f"http://{address}:8080/"), ("service", f"http://{service}/")):
        run_pod(two_nodes, namespace, name, pod(two_nodes, CLIENT, url, node="node-1"))
        assert ended(two_nodes, namespace, f"app={name}")["message"] == "server"


def test_a_lost_node_is_noticed_and_leaves_nothing_on_this_machine(real_node):
    # The other tests need `real_node`, which is asked for since it skips where nodes can't run.
    cluster = Cluster(1)
    try:
        [node] = cluster.nodes
        node.lose()

        def unknown() -> bool:
            conditions = cluster.get("node", node.name)["status"]["conditions"]
            return any(condition["type"] == "Ready" and condition["status"] == "Unknown" for condition in conditions)

        wait_for(unknown, "the node to count as lost", 60)
    finally:
        cluster.stop()
    assert not node.folder.exists()
    assert cluster.address not in ip("address").stdout
