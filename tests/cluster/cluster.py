"""A whole cluster on this machine: control plane, registry, and real nodes that run real containers."""

from __future__ import annotations

from collections.abc import Mapping

from tests.cluster import images
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import Network
from tests.cluster.node import Node, check_machine
from tests.cluster.processes import Run
from tests.cluster.registry import start_registry

LABELS = {"nvidia.com/gpu.product": "NVIDIA-L4"}
ACCELERATORS = {"nvidia.com/gpu": "1"}

# A lost node counts as lost after 20 s and not 50; its kubelet says every 2 s that it lives (see node.py).
NOTICES_LOST_NODES = ["--node-monitor-grace-period=20s", "--node-monitor-period=1s"]


class Cluster:
    """A control plane with real nodes.

    Attributes:
        control_plane: the control plane.
        address: this machine's address as nodes and pods see it: servers for them (S3, a registry) listen here.
        registry: HOST:PORT of a registry; nodes pull from it.
        nodes: the nodes, named node-0 and so on. This machine reaches pods at their own addresses.
    """

    def __init__(self, nodes: int = 1, labels: Mapping[str, str] = LABELS,
                 extended_resources: Mapping[str, str] = ACCELERATORS):
        """Starts it, and returns when every node takes pods.

        Args:
            nodes: how many, at most four.
            labels: of each node.
            extended_resources: what each offers besides CPU and memory; the scheduler counts it, nobody provides it.

        Raises:
            Unavailable: not root, or a package is missing.
        """
        check_machine()
        self.run = Run()
        try:
            network = Network(self.run)
            self.address = network.address
            self.control_plane = ControlPlane(network.address, self.run, NOTICES_LOST_NODES)
            self.registry = start_registry(self.run, network.address)
            self.control_plane.start()
            self.nodes: list[Node] = []
            self._make_node = lambda number: Node(f"node-{number}", number, self.control_plane, network, self.registry)
            self._offers = labels, extended_resources
            for _ in range(nodes):
                self.add_node()
        except BaseException:
            self.stop()
            raise
        self.kubectl = self.control_plane.kubectl
        self.get = self.control_plane.get

    def namespace(self, prefix: str = "test", pod_security: str = "restricted") -> str:
        """A fresh namespace that enforces a pod security level."""
        return self.control_plane.namespace(prefix, pod_security)

    def image(self, part: str) -> str:
        """The image of "operator", "trainer" or "python" (Debian's alone), in the registry; built if it has to be."""
        return images.python_image(self.registry) if part == "python" else images.image(self.registry, part)

    def add_node(self) -> Node:
        """One more node, like those that are there."""
        node = self._make_node(len(self.nodes))
        self.nodes.append(node)
        return node.start(*self._offers)

    def remove_node(self, node: Node) -> None:
        """Ends the node that was added last, with its pods."""
        self.nodes.remove(node)
        node.lose()
        self.kubectl("delete", "node", node.name)

    def stop(self) -> None:
        """Ends everything."""
        self.run.stop()
