"""Nodes and pods that kwok plays: for scale, where nothing has to run for real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from tests.cluster.binaries import command
from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import Process
from tests.cluster.waiting import wait_for

STAGES = Path(__file__).with_name("kwok-stages.yaml")
ANNOTATION = "kwok.x-k8s.io/node"
CAPACITY = {"cpu": "1000", "memory": "4Ti", "pods": "1000", "nvidia.com/gpu": "8"}
LABELS = {"nvidia.com/gpu.product": "NVIDIA-L4"}


def play(control_plane: ControlPlane, nodes: int = 1, capacity: Mapping[str, str] = CAPACITY,
         labels: Mapping[str, str] = LABELS, pod_seconds: float = 1, termination_message: str = "") -> Process:
    """Starts kwok with nodes that are ready when this returns; it ends with the control plane.

    Args:
        control_plane: where the nodes join.
        nodes: how many there are, named kwok-0 and so on.
        capacity: what each has to give.
        labels: those of each node.
        pod_seconds: how long a Job's pod runs before it succeeds; a fresh process per duration. Other pods run on.
        termination_message: what each container of a Job's pod leaves behind.

    Returns:
        kwok's process: stop() it to see what happens when every node falls silent.
    """
    stages = control_plane.folder / "kwok-stages.yaml"
    stages.write_text(Template(STAGES.read_text()).safe_substitute(
        PLAY_MILLISECONDS=round(pod_seconds * 1000), TERMINATION_MESSAGE=json.dumps(termination_message)))
    process = control_plane.run.start("kwok", [
        *command("kwok"), f"--kubeconfig={control_plane.kubeconfig}", f"--config={stages}",
        f"--manage-nodes-with-annotation-selector={ANNOTATION}=play", "--node-lease-duration-seconds=40"])
    items: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Node",
              "metadata": {"name": f"kwok-{number}", "annotations": {ANNOTATION: "play"},
                           "labels": {**labels, "kubernetes.io/hostname": f"kwok-{number}", "kubernetes.io/os": "linux",
                                      "kubernetes.io/arch": "amd64"}},
              "status": {"capacity": dict(capacity), "allocatable": dict(capacity)}} for number in range(nodes)]
    control_plane.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def all_ready() -> bool:
        process.running()
        seen = {item["metadata"]["name"]: item for item in control_plane.get("nodes")["items"]}
        return all(any(condition["type"] == "Ready" and condition["status"] == "True"
                       for condition in seen[item["metadata"]["name"]]["status"].get("conditions", []))
                   and not seen[item["metadata"]["name"]]["spec"].get("taints") for item in items)

    wait_for(all_ready, f"{nodes} nodes of kwok to be ready", 30 + nodes)
    return process
