"""The control plane under the other tests: does it work, and does it go away?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import kwok
from tests.cluster.binaries import KUBERNETES
from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import Identity, Run, clean_up
from tests.cluster.waiting import wait_for


def job(name: str) -> str:
    return json.dumps({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "example.invalid/nothing",
                            "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        }}},
    })


def test_it_answers_with_its_version(control_plane):
    version = json.loads(control_plane.kubectl("version", "-o", "json").stdout)
    assert version["serverVersion"]["gitVersion"] == f"v{KUBERNETES}"


def test_a_job_gets_its_pod_from_the_job_controller(control_plane, namespace):
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=job("waits"))
    pods = wait_for(lambda: control_plane.get("pods", "-n", namespace)["items"], "the job's pod")
    assert [pod["metadata"]["ownerReferences"][0]["name"] for pod in pods] == ["waits"]


def test_a_user_may_do_what_a_role_grants_and_no_more(control_plane, namespace):
    reader = control_plane.kubeconfig_for("someone", ["readers/of everything"])
    seen = ("get", "pods", "-n", namespace, "--kubeconfig", reader)
    refused = control_plane.kubectl(*seen, check=False)
    assert "forbidden" in refused.stderr
    control_plane.kubectl("create", "rolebinding", "readers", "-n", namespace, "--clusterrole=view",
                          "--group=readers/of everything")
    wait_for(lambda: control_plane.kubectl(*seen, check=False).returncode == 0, "the role binding to be in force")
    assert "forbidden" in control_plane.kubectl("create", "configmap", "x", "-n", namespace, "--kubeconfig", reader,
                                                check=False).stderr


def test_what_was_stored_outlives_a_restart_of_the_apiserver(control_plane, namespace):
    control_plane.kubectl("create", "configmap", "kept", "-n", namespace)
    control_plane.pause_apiserver()
    assert control_plane.kubectl("get", "namespaces", check=False).returncode != 0
    control_plane.restart_apiserver()
    assert control_plane.get("configmap", "kept", "-n", namespace)["metadata"]["name"] == "kept"


@pytest.fixture(scope="module")
def played_nodes():
    """A control plane of its own: its pods would run wherever another test wants them to wait."""
    plane = ControlPlane()
    try:
        plane.start()
        kwok.play(plane, nodes=2, termination_message='{"loss": 1.5, "words": "said \\"so\\""}')
        yield plane
    finally:
        plane.stop()


def test_kwok_plays_the_pods_of_a_job_to_their_end(played_nodes):
    namespace = played_nodes.namespace()
    played_nodes.kubectl("apply", "-n", namespace, "-f", "-", input=job("quick"))
    wait_for(lambda: played_nodes.get("job", "quick", "-n", namespace)["status"].get("succeeded"), "the job to succeed")
    [pod] = played_nodes.get("pods", "-n", namespace)["items"]
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 0
    assert json.loads(ended["message"]) == {"loss": 1.5, "words": 'said "so"'}


def test_kwok_leaves_no_room_for_more_accelerators_than_it_has(played_nodes):
    nodes = played_nodes.get("nodes")["items"]
    assert [node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes] == ["8", "8"]
    namespace = played_nodes.namespace()
    played_nodes.kubectl("apply", "-n", namespace, "-f", "-",
                         input=job("greedy").replace('"nvidia.com/gpu": "1"', '"nvidia.com/gpu": "9"'))

    def unschedulable() -> bool:
        pods = played_nodes.get("pods", "-n", namespace)["items"]
        return any("Insufficient nvidia.com/gpu" in condition.get("message", "")
                   for pod in pods for condition in pod["status"].get("conditions", []))

    wait_for(unschedulable, "the scheduler to say that no node has nine")


OWNER = """
import os, signal, sys
from pathlib import Path
from tests.cluster.processes import Run
from tests.cluster.waiting import wait_for
run = Run(Path(sys.argv[1]))
run.at_end(["touch", sys.argv[2]])
# A child that outlives its parent, as one does that changes its user.
server = run.start("server", ["setsid", "setpriv", "--pdeathsig", "clear", "sleep", "600"])
wait_for(lambda: Path(f"/proc/{server.pid}/comm").read_text() == "sleep\\n", "the server to be itself")
print(run.folder, server.pid, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_crashed_run_left_is_ended_by_the_next_and_what_a_living_one_has_is_not(tmp_path):
    undone = tmp_path / "undone"
    with subprocess.Popen([sys.executable, "-c", OWNER, tmp_path / "runs", undone], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as owner:
        assert owner.stdout is not None
        folder, pid = owner.stdout.readline().split()
        server = Identity.of(int(pid))
        assert server is not None
        clean_up(tmp_path / "runs")
        assert server.runs()
        assert Path(folder).exists()
        owner.communicate()
    assert server.runs()
    assert not undone.exists()
    Run(tmp_path / "runs").stop()
    assert not server.runs()
    assert not Path(folder).exists()
    assert undone.exists()


def test_a_process_that_took_over_a_dead_ones_id_is_left_alone(tmp_path):
    run = Run(tmp_path)
    server = run.start("server", ["sleep", "600"])
    now = Identity.of(server.pid)
    assert now is not None
    stranger = Identity(now.pid, now.started - 1)
    stranger.kill()
    assert now.runs()
    run.stop()
    assert not now.runs()
