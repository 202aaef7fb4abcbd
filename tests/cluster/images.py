"""The project's images, built with buildah and pushed to a test registry; what did not change is not built again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import httpx

from tests.cluster.cache import cache_folder, locked, say

ROOT = Path(__file__).parents[2]
# What each image is made of, besides its base.
SOURCES = {part: ("deploy/images.sh", "deploy/tools", "crds", part) for part in ("operator", "trainer")}
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE_SUITE = "bookworm"
# As Debian's slim images do: 50 MB that no program reads. The licences stay.
LEFT_OUT = [f"--dpkgopt={what}" for what in (
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*")]


def image(registry: str, part: str) -> str:
    """The name of the image of "operator" or "trainer" as its sources are now, in the registry.

    The first time takes minutes (the trainer's CUDA libraries), a change of our code half a minute, nothing else any.
    """
    base = base_name()
    tag = _digest(base.encode(), *_contents(SOURCES[part]))
    name = f"{registry}/finetune-{part}:{tag}"
    with locked(cache_folder() / "images.lock"):
        if not _is_there(name):
            _make_base(base)
            _timed(f"building the {part}'s image", ["bash", "deploy/images.sh", part], env={
                "BUILDER": "buildah", "BASE": base, "REPOSITORY": "localhost", "TAG": tag})
            _forget_others(f"localhost/finetune-{part}", tag)
            _push(f"localhost/finetune-{part}:{tag}", name)
    return name


def python_image(registry: str) -> str:
    """The name of an image with Debian's Python and nothing of ours, for pods that only try something."""
    base = base_name()
    name = f"{registry}/python:{_digest(base.encode())}"
    with locked(cache_folder() / "images.lock"):
        if not _is_there(name):
            _make_base(base)
            _push(base, name)
    return name


def base_name() -> str:
    """The base of all images: FINETUNE_TEST_BASE, or one made of Debian's packages, as there may be no Docker Hub."""
    made = _digest(BASE_PACKAGES, BASE_SUITE, *LEFT_OUT)
    return os.environ.get("FINETUNE_TEST_BASE") or f"localhost/debian-python:{made}"


def _make_base(name: str) -> None:
    if not name.startswith("localhost/") or not _run(["buildah", "inspect", "--type=image", name]).returncode:
        return
    folder = cache_folder() / "base"
    folder.mkdir(parents=True, exist_ok=True)
    _timed("making a base image of Debian's packages", [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}", *LEFT_OUT, BASE_SUITE,
        folder / "base.tar"])
    (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    _timed("importing it", ["buildah", "build", "--tag", name, folder])
    (folder / "base.tar").unlink()


def _forget_others(repository: str, tag: str) -> None:
    """Removes an image's older versions, with the layers that only they have."""
    # What a build that was interrupted left holds layers too.
    _run(["buildah", "rm", "--all"])
    listed = _run(["buildah", "images", "--format", "{{.Name}}:{{.Tag}}"]).stdout.split()
    if old := [name for name in listed if name.startswith(f"{repository}:") and name != f"{repository}:{tag}"]:
        _run(["buildah", "rmi", *old])


def _push(local: str, name: str) -> None:
    # Gigabytes: zstd takes a fraction of gzip's time, to write and for each node to read.
    _timed(f"pushing {local}", ["buildah", "push", "--tls-verify=false", "--compression-format=zstd", local,
                                f"docker://{name}"])


def _is_there(name: str) -> bool:
    host, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    return httpx.head(f"http://{host}/v2/{repository}/manifests/{tag}", trust_env=False, headers={
        "Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json",
    }).status_code == 200


def _timed(what: str, command: list[str | Path], env: dict[str, str] | None = None) -> None:
    say(what)
    began = time.monotonic()
    done = _run(command, env)
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    say(f"{what}: {time.monotonic() - began:.0f} s")


def _run(command: list[str | Path], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command at the repository's root, with image storage of our own beside the other caches."""
    storage = cache_folder() / "storage.conf"
    storage.parent.mkdir(parents=True, exist_ok=True)
    graph, running = (json.dumps(str(cache_folder() / "buildah" / name)) for name in ("graph", "run"))
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = {graph}\nrunroot = {running}\n')
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False, env={
        **os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "STORAGE_DRIVER": "overlay",
        # A build step is a plain chroot: it needs no network or user namespace of its own.
        "BUILDAH_ISOLATION": "chroot", **(env or {})})


def _contents(paths: Iterable[str]) -> Iterable[bytes]:
    for name in paths:
        path = ROOT / name
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts and not any(part.endswith(".egg-info") for part in file.parts):
                yield str(file.relative_to(ROOT)).encode()
                yield file.read_bytes()


def _digest(*parts: str | bytes) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()[:16]
