"""The network that nodes, their pods and this machine share: a bridge, and a route to each node's pods."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from tests.cluster.binaries import Unavailable
from tests.cluster.processes import Run

MOST_NETWORKS = 64
NODES_EACH = 4


class Network:
    """A bridge on this machine, in a network of its own.

    Nothing is forwarded beyond this machine: a pod reaches other pods, Services, and what listens on `address`.

    Attributes:
        address: this machine's, for nodes and pods.
    """

    def __init__(self, run: Run):
        for number in range(MOST_NETWORKS):
            # Making the bridge is also how the number is taken: another worker's attempt at the same name fails.
            made = ip("link", "add", f"ftnet{number}", "type", "bridge", check=False)
            if made.returncode == 0:
                break
            if "File exists" not in made.stderr:
                raise Unavailable(f"no network bridge can be made: {made.stderr.strip()}")
        else:
            raise Unavailable(f"{MOST_NETWORKS} bridges called ftnet0 and so on exist already")
        self._number = number
        self._bridge = f"ftnet{number}"
        run.at_end(["ip", "link", "delete", self._bridge])
        self.address = f"10.201.{number}.1"
        ip("address", "add", f"{self.address}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")

    def node_address(self, node: int) -> str:
        return f"10.201.{self._number}.{10 + node}"

    def pods_of(self, node: int) -> str:
        """The addresses that a node's pods get."""
        return f"10.202.{self._number * NODES_EACH + node}.0/24"

    def join(self, node: int, pid: int) -> None:
        """Plugs the network namespace of process `pid` in as node number `node`, and routes to its pods."""
        inside = ["nsenter", f"--target={pid}", "--net", "--", "ip"]
        cable = f"{self._bridge}-{node}"
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        ip("link", "set", cable, "master", self._bridge, "up")
        for command in (["link", "set", "lo", "up"],
                        ["address", "add", f"{self.node_address(node)}/24", "dev", "eth0"],
                        ["link", "set", "eth0", "up"],
                        # The kubelet takes the interface of the default route for the node's.
                        ["route", "add", "default", "via", self.address]):
            _checked([*inside, *command])
        ip("route", "add", self.pods_of(node), "via", self.node_address(node))
        for other in range(NODES_EACH):
            if other != node:
                _checked([*inside, "route", "add", self.pods_of(other), "via", self.node_address(other)])


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `ip`."""
    if shutil.which("ip") is None:
        raise Unavailable("ip (iproute2) is not installed: run tests/cluster/packages.sh as root")
    return _checked(["ip", *arguments], check)


def _checked(command: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done
