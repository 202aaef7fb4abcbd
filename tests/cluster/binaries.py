"""The programs of a control plane and its nodes: built once by Go, or taken from the folder of setup-envtest."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.cluster.cache import cache_folder, locked, say

KUBERNETES = "1.35.4"
FOLDER = Path(__file__).parent
VERSION_PACKAGE = "k8s.io/component-base/version"
LINKER_FLAGS = {
    # Without these the apiserver calls itself v0.0.0, and kubectl refuses to compare versions.
    "go": f"-X {VERSION_PACKAGE}.gitVersion=v{KUBERNETES} -X {VERSION_PACKAGE}.gitMajor=1 "
          f"-X {VERSION_PACKAGE}.gitMinor={KUBERNETES.split('.')[1]}",
    "go-kwok": "",
    "go-helm": "",
}
PACKAGES = {"go": ".", "go-kwok": "sigs.k8s.io/kwok/cmd/kwok", "go-helm": "helm.sh/helm/v4/cmd/helm"}
MINUTES = {"go": 6, "go-kwok": 2, "go-helm": 2}


class Unavailable(Exception):
    """This machine lacks something that a cluster needs; the message names it and says how to get it."""


@functools.cache
def command(part: str) -> tuple[str, ...]:
    """How to start a part: etcd, kube-apiserver, kubelet, kubectl, kwok, helm and so on.

    Raises:
        Unavailable: it is not there and cannot be built.
    """
    if part in ("kwok", "helm"):
        return (str(built(f"go-{part}")),)
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        found = Path(assets) / part
        if found.exists():
            return (str(found),)
        if part in ("etcd", "kube-apiserver", "kubectl"):
            raise Unavailable(f"KUBEBUILDER_ASSETS names {assets}, which holds no {part}")
    return str(built("go")), part


def built(program: str) -> Path:
    """The executable of the Go program in the folder `program`, built if this version of it never was.

    Raises:
        Unavailable: Go is missing, or the build failed.
    """
    source = FOLDER / program
    inputs = [path for name in ("go.mod", "go.sum", "main.go") if (path := source / name).exists()]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    target = cache_folder() / "bin" / f"{program}-{digest}" / "program"
    if target.exists():
        return target
    with locked(cache_folder() / "bin" / f"{program}.lock"):
        # Another worker may have built it while this one waited for the lock.
        if not target.exists():
            _build(program, source, target)
    return target


def _build(program: str, source: Path, target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise Unavailable(f"Go is not installed: it builds {source} (etcd, the apiserver, the kubelet). Install Go, or "
                          "name a folder of setup-envtest in KUBEBUILDER_ASSETS for tests that need no node")
    say(f"building {source.name} of tests/cluster with Go: about {MINUTES[program]} minutes on 2 cores the first time, "
        f"kept in {target}")
    began = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    done = subprocess.run(
        [go, "build", "-trimpath", "-ldflags", f"-s -w {LINKER_FLAGS[program]}", "-o", unfinished, PACKAGES[program]],
        cwd=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"go build in {source} failed:\n{done.stderr[-3000:]}")
    unfinished.rename(target)
    say(f"built {source.name} in {time.monotonic() - began:.0f} s ({target.stat().st_size >> 20} MiB)")


def main() -> int:
    """Builds what was never built, so that no test's time limit pays for it."""
    try:
        for program in PACKAGES:
            built(program)
    except Unavailable as missing:
        say(f"NOT TESTED without it: {missing}")
        return 1 if os.environ.get("CI") else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
