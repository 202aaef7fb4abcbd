"""The version stands in pyproject.toml; the other files that need it have the same one."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("crds", "operator", "trainer", "cli")


@pytest.fixture
def version():
    """The script, as a module."""
    found = importlib.util.spec_from_file_location("version", ROOT / "deploy" / "version.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def copy(version, tmp_path, monkeypatch):
    """The script in a copy of the files that have the version."""
    for path in {path for path, _ in version._files()}:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    monkeypatch.setattr(version, "ROOT", tmp_path)
    return version, tmp_path


def test_every_file_has_the_version(version):
    assert version.differing() == []


def test_every_distribution_and_the_chart_are_looked_at(version):
    looked_at = {str(path.relative_to(ROOT)) for path, _ in version._files()}
    assert {f"{part}/pyproject.toml" for part in PARTS} | {"charts/finetune-operator/Chart.yaml"} <= looked_at
    assert any(path.startswith("operator/src/") for path in looked_at), "the default images"


def test_a_new_version_is_written_everywhere(copy):
    version, folder = copy
    version.write("9.8.7")
    assert version.version() == "9.8.7" and version.differing() == []
    chart = (folder / "charts/finetune-operator/Chart.yaml").read_text()
    assert "\nversion: 9.8.7\n" in chart and "\nappVersion: 9.8.7\n" in chart


@pytest.mark.parametrize("part", PARTS)
def test_a_file_with_another_version_is_named(copy, part):
    version, folder = copy
    path = folder / part / "pyproject.toml"
    path.write_text(path.read_text().replace(version.version(), "0.0.1"))
    [fault] = version.differing()
    assert fault.startswith(f"{part}/pyproject.toml: 0.0.1")
