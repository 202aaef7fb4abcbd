"""A real Kubernetes control plane: etcd, apiserver, controller manager and scheduler as processes of this machine."""

from __future__ import annotations

import random
import secrets
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.cluster.binaries import command
from tests.cluster.certificates import Authority, write_kubeconfig
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Process, Run
from tests.cluster.waiting import wait_for

SERVICE_ADDRESSES = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
# Below what the kernel hands out to clients (from 32768), or one of their connections may take a port meanwhile.
PORTS = range(12_000, 20_000)
# The default of 20 requests a second holds plain Jobs at 3 a second.
CLIENT_LIMITS = ["--kube-api-qps=500", "--kube-api-burst=1000"]


class ControlPlane(Kubectl):
    """A control plane, with no nodes.

    Attributes:
        url: the apiserver's address.
        folder: logs, data and certificates; gone after stop().
        address: the IP address that the apiserver listens on.
        authority: the certificate authority, for kubelets and others that join.
        run: the processes' keeper, for servers that live as long as this control plane.
    """

    def __init__(self, address: str = "127.0.0.1", run: Run | None = None, manager_options: Sequence[str] = (),
                 admission_plugins: Sequence[str] = ()):
        """Prepares it.

        Args:
            address: what the apiserver binds and advertises; pods can reach the apiserver where it isn't loopback.
            run: where its processes belong; by default to a run of its own.
            manager_options: more of kube-controller-manager's, such as shorter grace periods.
            admission_plugins: more of the apiserver's than a cluster has by default.
        """
        self.address = address
        self.run = run or Run()
        self.folder = self.run.folder
        super().__init__(self.folder / "admin.kubeconfig")
        self._manager_options = list(manager_options)
        self._admission_plugins = ",".join(["NodeRestriction", *admission_plugins])
        [self._port] = free_ports(1, address)
        self._etcd_port, self._peer_port = free_ports(2)
        self.url = f"https://{address}:{self._port}"
        self._apiserver: Process | None = None

    def start(self) -> ControlPlane:
        """Starts it, and returns when it answers and its controllers work."""
        self.authority = Authority(self.folder / "certificates")
        self._serving = self.authority.server("apiserver", sorted({self.address, "127.0.0.1", FIRST_SERVICE_ADDRESS}),
                                              ["localhost", "kubernetes", "kubernetes.default.svc"])
        self._admin = self.authority.client("admin", "admin", ["system:masters"])
        self._token_keys = self.authority.key_pair("service-accounts")
        write_kubeconfig(self.kubeconfig, self.url, self.authority.certificate, *self._admin)
        etcd = f"http://127.0.0.1:{self._etcd_port}"
        peers = f"http://127.0.0.1:{self._peer_port}"
        store = self.run.start("etcd", [
            *command("etcd"), f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            # Nothing here has to survive the machine.
            "--unsafe-no-fsync", "--log-level=warn"])
        wait_for(lambda: store.running() and _answers(f"{etcd}/health"), "etcd to be healthy", 60)
        self.restart_apiserver()
        manager = self.kubeconfig_for("system:kube-controller-manager", [])
        self.run.start("kube-controller-manager", [
            *command("kube-controller-manager"), f"--kubeconfig={manager}", f"--authentication-kubeconfig={manager}",
            f"--authorization-kubeconfig={manager}", f"--root-ca-file={self.authority.certificate}",
            f"--service-account-private-key-file={self._token_keys[0]}", "--use-service-account-credentials",
            "--leader-elect=false", "--secure-port=0", *CLIENT_LIMITS, *self._manager_options])
        scheduler = self.kubeconfig_for("system:kube-scheduler", [])
        self.run.start("kube-scheduler", [
            *command("kube-scheduler"), f"--kubeconfig={scheduler}", f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0", *CLIENT_LIMITS])
        self._wait_for_account("default")
        return self

    def stop(self) -> None:
        """Ends everything of its run, and removes the folder."""
        self.run.stop()

    def pause_apiserver(self) -> None:
        """Ends the apiserver as a crash would: watches break, requests are refused, etcd keeps everything."""
        assert self._apiserver is not None
        self._apiserver.stop(grace_seconds=0)

    def restart_apiserver(self) -> None:
        """Starts the apiserver, on the same port as before, and returns when it is ready."""
        certificate, key = self._serving
        client_certificate, client_key = self._admin
        private, public = self._token_keys
        self._apiserver = self.run.start("kube-apiserver", [
            *command("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.address}", f"--advertise-address={self.address}", f"--secure-port={self._port}",
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}", "--authorization-mode=Node,RBAC",
            f"--enable-admission-plugins={self._admission_plugins}", "--allow-privileged",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}", f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
            f"--kubelet-client-certificate={client_certificate}", f"--kubelet-client-key={client_key}",
            "--kubelet-preferred-address-types=InternalIP",
            # The Service "kubernetes" cannot lead to a loopback address.
            *(["--endpoint-reconciler-type=none"] if self.address.startswith("127.") else [])])
        wait_for(self._ready, "the apiserver to be ready", 60)

    def client(self, user: str | None = None) -> httpx.Client:
        """A connection to the apiserver: an administrator's, or that of a user whom RBAC grants something."""
        trust = self._trust(*(self.authority.client(user, user, []) if user else self._admin))
        return httpx.Client(base_url=self.url, verify=trust, trust_env=False, timeout=30)

    def kubeconfig_for(self, user: str, groups: Sequence[str]) -> Path:
        """The kubeconfig of another user, who may do what RBAC grants them."""
        name = f"user-{secrets.token_hex(4)}"
        certificate, key = self.authority.client(name, user, groups)
        return write_kubeconfig(self.folder / f"{name}.kubeconfig", self.url, self.authority.certificate, certificate,
                                key)

    def _ready(self) -> bool:
        assert self._apiserver is not None
        self._apiserver.running()
        return _answers(f"{self.url}/readyz", self._trust(*self._admin))

    def _trust(self, certificate: Path, key: Path) -> ssl.SSLContext:
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        trust.load_cert_chain(certificate, key)
        return trust


def _answers(url: str, trust: ssl.SSLContext | bool = False) -> bool:
    """Whether a server says that it is well."""
    try:
        return httpx.get(url, verify=trust, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Different ports of an address that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as trial:
            try:
                trial.bind((address, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} free ports on {address}")
