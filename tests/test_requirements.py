"""What the images are made of is what the tests ran with."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ \\;]+)")


def _pins(path):
    return dict(match.groups() for line in path.read_text().splitlines() if (match := PIN.match(line)))


@pytest.mark.parametrize("part", ["operator", "trainer"])
def test_an_image_holds_the_versions_that_the_tests_ran_with(part):
    pins, tested = _pins(ROOT / part / "requirements.txt"), _pins(ROOT / "constraints.txt")
    assert pins
    assert {name: version for name, version in pins.items() if tested.get(name) != version} == {}


@pytest.mark.parametrize("part", ["operator", "trainer"])
def test_an_image_holds_all_that_its_program_needs(part):
    wanted = [re.match(r"[A-Za-z0-9_.-]+", needed)[0].lower()
              for folder in ("crds", part)
              for needed in tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]["dependencies"]]
    assert set(wanted) - {"finetune-api"} <= set(_pins(ROOT / part / "requirements.txt"))


@pytest.mark.parametrize("part", ["operator", "trainer"])
def test_every_file_of_an_image_is_pinned_by_its_digest_and_no_registry_is_named(part):
    text = (ROOT / part / "requirements.txt").read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


def test_the_operator_needs_no_torch():
    assert "torch" not in _pins(ROOT / "operator" / "requirements.txt")
