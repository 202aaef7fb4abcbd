"""A cluster that somebody else runs, such as kind or minikube on this machine, in place of one of our own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.cluster import images
from tests.cluster.binaries import Unavailable, command
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Run
from tests.cluster.waiting import wait_for


class ExistingCluster(Kubectl):
    """The cluster of a kubeconfig.

    Attributes:
        run: the keeper of processes that live as long as its use.
        folder: a folder of the run.
        address: an address of this machine that its pods reach.
        registry: HOST:PORT of a registry that its nodes pull from and this machine pushes to, over plain HTTP.
        control_plane: itself.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ):
        """Prepares its use; nothing is started there.

        Args:
            environment: KUBECONFIG; FINETUNE_TEST_REGISTRY, the registry; and FINETUNE_TEST_ADDRESS, where the address
                of the default route is not what pods reach.

        Raises:
            Unavailable: no registry is named.
        """
        super().__init__(Path(environment["KUBECONFIG"]).absolute())
        if "FINETUNE_TEST_REGISTRY" not in environment:
            raise Unavailable("KUBECONFIG names a cluster: name a registry, too, that its nodes pull from and this "
                              "machine may push to, as HOST:PORT in FINETUNE_TEST_REGISTRY (or unset KUBECONFIG)")
        self.registry = environment["FINETUNE_TEST_REGISTRY"]
        self.address = environment.get("FINETUNE_TEST_ADDRESS") or _own_address()
        self.run = Run()
        self.folder = self.run.folder
        self.control_plane = self

    def client(self, user: str | None = None) -> httpx.Client:
        """A connection to the apiserver: an administrator's, however the kubeconfig proves who that is, or a user's."""
        proxy = self.run.start("kubectl-proxy", [*command("kubectl"), f"--kubeconfig={self.kubeconfig}", "proxy",
                                                 "--port=0"])

        def port() -> re.Match[str] | None:
            proxy.running()
            return re.search(r"Starting to serve on (127\.0\.0\.1:\d+)", proxy.log.read_text())

        return httpx.Client(base_url=f"http://{wait_for(port, 'kubectl proxy')[1]}", trust_env=False, timeout=30,
                            headers={"Impersonate-User": user} if user else None)

    def image(self, part: str) -> str:
        """The image of "operator" or "trainer" in the registry; built if it has to be."""
        return images.image(self.registry, part)

    def stop(self) -> None:
        """Ends what was started here."""
        self.run.stop()


def _own_address() -> str:
    """This machine's address towards the rest of the world."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: the kernel only chooses the route.
        probe.connect(("192.0.2.1", 9))
        address: str = probe.getsockname()[0]
    return address
