"""What earlier releases have written: `recorded/` has a folder for each, named by its day.

A folder has the run.json of the first attempt of a few jobs, that of a check, and the JSON Schema by which that
release's trainer read them (strictly, until 2026-11-26). Its `published/` has everything else that the release
published. A release that changes the shape adds a folder, written by its own code; those that are there are never
edited.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recorded"
RUNS = sorted(path for path in FOLDER.glob("*/*.json") if path.stem != "schema")
ATTEMPTS = [path for path in RUNS if path.stem != "preflight"]


def run_name(path: Path) -> str:
    """What a test calls a recorded run.json."""
    return f"{path.parent.name} {path.stem}"


def read(path: Path) -> dict[str, Any]:
    """What a recorded file has."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def schema_of(path: Path) -> dict[str, Any]:
    """What the trainer of the release that wrote a file takes."""
    return read(path.with_name("schema.json"))
