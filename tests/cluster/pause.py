"""The pause program, and the image of it that holds a pod together; made here, since no registry can be reached."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.cluster.binaries import Unavailable
from tests.cluster.cache import cache_folder, locked

SOURCE = Path(__file__).with_name("pause.c")
IMAGE = "finetune.test/pause:1"


def program() -> Path:
    """The static executable.

    Raises:
        Unavailable: there is no C compiler.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    target = cache_folder() / "bin" / f"pause-{digest}"
    with locked(cache_folder() / "bin" / "pause.lock"):
        if not target.exists():
            compiler = shutil.which("gcc")
            if compiler is None:
                raise Unavailable("gcc is not installed: run tests/cluster/packages.sh as root")
            unfinished = target.with_suffix(".unfinished")
            subprocess.run([compiler, "-static", "-Os", "-s", "-Wall", "-o", unfinished, SOURCE], check=True)
            unfinished.rename(target)
    return target


def write_image(path: Path) -> Path:
    """Writes the image in docker's archive format, which `ctr images import` reads."""
    layer = _tar({"pause": (program().read_bytes(), 0o755)})
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"], "User": "65535"},
                         "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}])
    path.write_bytes(_tar({"layer.tar": (layer, 0o644), "config.json": (config.encode(), 0o644),
                           "manifest.json": (manifest.encode(), 0o644)}))
    return path


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
