"""The version of the project: it is written in pyproject.toml, and the other files that need it are kept equal.

    python deploy/version.py             print the version
    python deploy/version.py --check     fail where another file has another version
    python deploy/version.py 0.2.0       write a new version into every file
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PROJECT = r'(?m)^version = "([^"]+)"$'
_IMAGE = r"ghcr\.io/finetune-dev/finetune-[a-z-]+:([0-9][\w.-]*)"
PLACES: tuple[tuple[str, str], ...] = (
    ("pyproject.toml", _PROJECT),
    *((f"{part}/pyproject.toml", _PROJECT) for part in ("crds", "operator", "trainer", "cli")),
    ("charts/finetune-operator/Chart.yaml", r"(?m)^(?:version|appVersion): (.+)$"),
    ("operator/src/finetune_operator/settings/*.py", _IMAGE),
    ("docs/**/*.md", _IMAGE),
    ("docs/**/*.md", r"\bTAG=([0-9][\w.]*)"),
)
"""Where the version is written: a file's pattern, and a regular expression whose group is the version."""


def version() -> str:
    """The version in pyproject.toml."""
    return _found(ROOT / "pyproject.toml", _PROJECT)[0]


def _found(path: Path, pattern: str) -> list[str]:
    return re.findall(pattern, path.read_text(encoding="utf-8"))


def _files() -> list[tuple[Path, str]]:
    return [(path, pattern) for place, pattern in PLACES for path in sorted(ROOT.glob(place))
            if "decisions" not in path.parts and _found(path, pattern)]


def differing() -> list[str]:
    """A line for every file with another version."""
    return [f"{path.relative_to(ROOT)}: {other}; pyproject.toml has {version()}" for path, pattern in _files()
            for other in _found(path, pattern) if other != version()]


def write(new: str) -> None:
    """Write a version into every file."""
    for path, pattern in _files():
        text = path.read_text(encoding="utf-8")
        for match in reversed(list(re.finditer(pattern, text))):
            text = text[:match.start(1)] + new + text[match.end(1):]
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Print, check or write the version; 1 where a check finds another one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new", nargs="?", help="the new version")
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    if arguments.new:
        write(arguments.new)
    elif arguments.check:
        faults = differing()
        sys.stderr.writelines(f"{fault}; run python deploy/version.py {version()}\n" for fault in faults)
        return int(bool(faults))
    else:
        sys.stdout.write(f"{version()}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
