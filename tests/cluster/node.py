"""A real node: containerd, kubelet and kube-proxy in namespaces of their own, which take everything with them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from string import Template

from tests.cluster import pause
from tests.cluster.binaries import Unavailable, command
from tests.cluster.cache import cache_folder, make_room
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import Network
from tests.cluster.processes import Process
from tests.cluster.waiting import wait_for

FOLDER = Path(__file__).parent
CGROUPS = Path("/sys/fs/cgroup")
# One version of the trainer's dependencies, compressed, is 3 GB.
MOST_IMAGE_BYTES = 5 << 30
# What the kubelet sets for the whole machine; put back at the end.
TUNABLES = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
            "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")


def check_machine() -> None:
    """Checks that nodes can run here.

    Raises:
        Unavailable: not root, or a package is missing; the message lists them.
    """
    if os.geteuid():
        raise Unavailable("real nodes need root, for network namespaces and containers")
    done = subprocess.run(["bash", FOLDER / "packages.sh", "--check"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"run tests/cluster/packages.sh as root, it installs what real nodes need:\n{done.stdout}")


class Node:
    """A node that has joined a control plane.

    Attributes:
        name: its name.
        address: its IP address, which this machine reaches.
        folder: its logs and data.
    """

    def __init__(self, name: str, number: int, control_plane: ControlPlane, network: Network, registry: str):
        self.name = name
        self.address = network.node_address(number)
        self.folder = control_plane.folder / name
        self._plane = control_plane
        self._run = control_plane.run
        self._network = network
        self._number = number
        self._registry = registry

    def start(self, labels: Mapping[str, str], extended_resources: Mapping[str, str]) -> Node:
        """Starts it; returns when pods can be scheduled on it.

        Args:
            labels: of the node.
            extended_resources: more than CPU and memory to offer, such as accelerators. Nobody hands them out for real,
                but the scheduler counts them.
        """
        self.folder.mkdir()
        self._images = self._image_store()
        self._cgroup = f"{self._run.folder.name}-{self.name}"
        self._run.at_end(["find", CGROUPS, "-depth", "-type", "d", "-path", f"*/{self._cgroup}*", "-delete"])
        self._begin()
        self._network.join(self._number, self._init_pid)
        self._start_containerd()
        self._start_kubelet(labels)
        self._start_proxy()
        wait_for(self._is_ready, f"{self.name} to be ready", 90)
        if extended_resources:
            self.offer(extended_resources)
        return self

    def offer(self, extended_resources: Mapping[str, str]) -> None:
        """Writes extended resources into the node's status, as a device plugin makes the kubelet do."""
        more = dict(extended_resources)
        self._plane.kubectl("patch", "node", self.name, "--subresource=status", "--type=merge", "-p",
                            json.dumps({"status": {"capacity": more, "allocatable": more}}))

    def _image_store(self) -> Path:
        """containerd's folder. One node at a time has the one that is kept: gigabytes are pulled and unpacked once.

        To containerd a new run looks like a machine that was switched off and on: the kubelet clears old pods away.
        """
        if not self._run.take(cache_folder() / "containerd.lock"):
            return self.folder / "containerd"
        kept = cache_folder() / "containerd"
        make_room(kept, MOST_IMAGE_BYTES, "io.containerd.content.v1.content/blobs")
        return kept

    def lose(self) -> None:
        """Ends the node as a power cut would: its kubelet and all its containers are gone, nobody is told."""
        self._init.stop(grace_seconds=0)

    def inside(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command of this machine inside the node, such as `ctr`, and gives its result."""
        return subprocess.run(self._enter(*arguments), capture_output=True, text=True, check=False)

    def _begin(self) -> None:
        self._init = self._run.start(f"{self.name}-init", [
            "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--",
            FOLDER / "node-init.sh", self.folder, self._images, pause.program()])
        wait_for(lambda: self._init.running() and (self.folder / "ready").exists(), f"{self.name} to begin")
        self._init_pid = _only_child_of(self._init.pid)
        # Once this one is gone the kernel has ended all of the node.
        self._run.note_process(self._init_pid)

    def _enter(self, *arguments: str | Path) -> list[str]:
        return ["nsenter", f"--target={self._init_pid}", "--mount", "--net", "--pid", "--", *map(str, arguments)]

    def _daemon(self, name: str, *arguments: str | Path) -> Process:
        return self._run.start(f"{self.name}-{name}", self._enter(*arguments))

    def _start_containerd(self) -> None:
        networks = self.folder / "cni"
        networks.mkdir()
        # Point to point and not a bridge: between two ports of a bridge a Service's address would not be translated
        # without the kernel's br_netfilter.
        (networks / "pods.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": {
                "type": "host-local", "ranges": [[{"subnet": self._network.pods_of(self._number)}]],
                "routes": [{"dst": "0.0.0.0/0"}]}}]}))
        settings = self.folder / "containerd.toml"
        settings.write_text(Template((FOLDER / "containerd.toml").read_text()).substitute(
            REGISTRY=self._registry, PAUSE=pause.IMAGE, CNI=networks))
        containerd = self._daemon("containerd", "containerd", "--config", settings)
        wait_for(lambda: containerd.running() and self.inside("ctr", "version").returncode == 0, "containerd to answer")
        image = pause.write_image(self.folder / "pause.tar")
        loaded = self.inside("ctr", "--namespace=k8s.io", "images", "import", image)
        if loaded.returncode:
            raise RuntimeError(f"the pause image could not be loaded: {loaded.stderr}")

    def _start_kubelet(self, labels: Mapping[str, str]) -> None:
        for hierarchy in [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else CGROUPS.iterdir():
            if hierarchy.is_dir() and not hierarchy.is_symlink():
                (hierarchy / self._cgroup).mkdir(exist_ok=True)
        before = {name: Path("/proc/sys", name).read_text().strip() for name in TUNABLES}
        self._run.at_end(["sh", "-c", "; ".join(f"echo {value} >/proc/sys/{name}" for name, value in before.items())])
        settings = self.folder / "kubelet.json"
        settings.write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False},
                               "x509": {"clientCAFile": str(self._plane.authority.certificate)}},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self._cgroup}", "failCgroupV1": False, "failSwapOn": False,
            # As containerd's.
            "oomScoreAdj": 0,
            # There is no DNS: a pod finds Services in its environment.
            "resolvConf": "",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            # The machine's disk may be as full as it likes.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                             "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100, "serializeImagePulls": False,
            # How it tells that it lives: the lease is renewed after a quarter of it.
            "nodeLeaseDurationSeconds": 8, "nodeStatusUpdateFrequency": "5s", "nodeStatusReportFrequency": "5s",
            # How late a pod sees a changed ConfigMap; a minute by default.
            "syncFrequency": "2s",
        }))
        kubeconfig = self._plane.kubeconfig_for(f"system:node:{self.name}", ["system:nodes"])
        self._kubelet = self._daemon(
            "kubelet", *command("kubelet"), f"--config={settings}", f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}", f"--node-ip={self.address}",
            f"--node-labels={','.join(f'{key}={value}' for key, value in labels.items())}")

    def _start_proxy(self) -> None:
        kubeconfig = self._plane.kubeconfig_for("system:kube-proxy", [])
        self._daemon("kube-proxy", *command("kube-proxy"), f"--kubeconfig={kubeconfig}", "--proxy-mode=iptables",
                     f"--hostname-override={self.name}",
                     # These limits belong to the machine, not to the network namespace.
                     "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
                     "--conntrack-tcp-timeout-close-wait=0")

    def _is_ready(self) -> bool:
        self._kubelet.running()
        seen = self._plane.kubectl("get", "node", self.name, "-o", "json", check=False)
        if seen.returncode:
            return False
        node = json.loads(seen.stdout)
        conditions = {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}
        return conditions["Ready"] == "True" and not node["spec"].get("taints")


def _only_child_of(parent: int) -> int:
    """The process that `parent` started: unshare's child, the first of its namespace, as this machine numbers it."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            children.append(int(stat.parent.name))
    [child] = children
    return child
