"""A public class has one name within its distribution, so that a reader finds the one that is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _places(folder: Path) -> dict[str, list[str]]:
    """The modules that define each public class below a folder."""
    places = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(folder).as_posix())
    return places


@pytest.mark.parametrize("distribution", ["crds", "operator", "trainer", "cli"])
def test_public_classes_have_unique_names(distribution):
    places = _places(ROOT / distribution / "src")
    assert places
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_a_name_that_two_modules_use_is_found(tmp_path):
    for module in ("one", "two"):
        (tmp_path / f"{module}.py").write_text("class Verdict: ...\nclass _Own: ...\n")
    assert _places(tmp_path) == {"Verdict": ["one.py", "two.py"]}
