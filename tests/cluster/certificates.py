"""Certificates for one cluster, from an authority that is thrown away with it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.binaries import Unavailable


class Authority:
    """An authority whose files lie in a folder: ca.crt, ca.key, and a NAME.crt and NAME.key for each it vouched for."""

    def __init__(self, folder: Path):
        openssl = shutil.which("openssl")
        if openssl is None:
            raise Unavailable("openssl is not installed: it makes the test cluster's certificates")
        self._openssl = openssl
        self.folder = folder
        folder.mkdir(parents=True)
        # An own configuration: the system's would add extensions of its own.
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name=name\n[name]\n")
        self.certificate, self.key = self._make("ca", "/CN=test-cluster", ["keyUsage=critical,keyCertSign,cRLSign"],
                                                is_authority=True)

    def server(self, name: str, addresses: Sequence[str], hosts: Sequence[str]) -> tuple[Path, Path]:
        """A server's certificate and key."""
        names = ",".join([*(f"IP:{address}" for address in addresses), *(f"DNS:{host}" for host in hosts)])
        return self._make(name, f"/CN={name}", [f"subjectAltName={names}", "extendedKeyUsage=serverAuth",
                                                "keyUsage=critical,digitalSignature"])

    def client(self, name: str, user: str, groups: Sequence[str]) -> tuple[Path, Path]:
        """A user's certificate and key; Kubernetes reads the user from CN and the groups from O."""
        subject = "".join(f"/{kind}={value.replace('/', chr(92) + '/')}"
                          for kind, value in [*(("O", group) for group in groups), ("CN", user)])
        return self._make(name, subject, ["extendedKeyUsage=clientAuth", "keyUsage=critical,digitalSignature"])

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """A private key and its public half, for signing tokens."""
        private, public = self.folder / f"{name}.key", self.folder / f"{name}.pub"
        self._run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private)
        self._run("pkey", "-in", private, "-pubout", "-out", public)
        return private, public

    def _make(self, name: str, subject: str, extensions: list[str], is_authority: bool = False) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        signed_by: list[str | Path] = [] if is_authority else ["-CA", self.certificate, "-CAkey", self.key]
        extensions = [f"basicConstraints=critical,CA:{'TRUE' if is_authority else 'FALSE'}",
                      "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid", *extensions]
        self._run("req", "-x509", "-config", self.folder / "openssl.cnf", "-newkey", "ec", "-pkeyopt",
                  "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", subject, "-keyout", key, "-out",
                  certificate, *signed_by, *(part for extension in extensions for part in ("-addext", extension)))
        return certificate, key

    def _run(self, *arguments: str | Path) -> None:
        done = subprocess.run([self._openssl, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl {arguments[0]} failed:\n{done.stderr}")


def write_kubeconfig(path: Path, url: str, authority: Path, certificate: Path, key: Path) -> Path:
    """A kubeconfig that carries everything inside, so that it works wherever it is copied."""
    def inside(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority-data": inside(authority)}}],
        "users": [{"name": "test", "user": {"client-certificate-data": inside(certificate),
                                            "client-key-data": inside(key)}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }, indent=1))
    path.chmod(0o600)
    return path
