"""A copy of the repository in which a recipe of CONTRIBUTING is followed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_PACKAGES = ("crds", "operator", "trainer", "cli")


def copy_repository(root: Path) -> Path:
    """Copy every file that git knows of to `root`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in listed.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
    return root


def insert_after(path: Path, place: str, text: str) -> None:
    """Insert text after the one place in a file that reads so."""
    content = path.read_text(encoding="utf-8")
    assert content.count(place) == 1, f"{path.name} has {place!r} {content.count(place)} times"
    path.write_text(content.replace(place, place + text), encoding="utf-8")


def run_python(root: Path, *arguments: str) -> str:
    """Run Python in a copy, on the packages of the copy: what it printed."""
    paths = os.pathsep.join(str(root / package / "src") for package in _PACKAGES)
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": paths, "MYPYPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
