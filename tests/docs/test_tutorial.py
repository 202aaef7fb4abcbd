"""The tutorial's first part, command by command, with the demo's real model."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.docs.tutorial import ROOT, Tutorial

LAPTOP = ROOT / "docs" / "tutorial" / "laptop.md"
OWN_DATA = ROOT / "docs" / "how-to" / "own-data.md"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_laptop_tutorial_does_what_the_page_says(tmp_path):
    printed = Tutorial(LAPTOP, tmp_path).follow({"OMP_NUM_THREADS": "1"})
    assert "Succeeded: trained 8 steps and published the adapter" in printed
    assert "report.html" in printed.partition("ls adapters/default/first")[2]
    assert "no row has a column fact" in printed
    again = printed.rpartition("+ finetune run first.yaml")[2]
    assert "training: 1/8" not in again, "the second run trains nothing"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_page_on_own_data_does_what_the_page_says(tmp_path):
    tutorial = Tutorial(OWN_DATA, tmp_path)
    subprocess.run(["make", "-s", "inputs"], cwd=tmp_path, check=True)
    printed = tutorial.follow({"OMP_NUM_THREADS": "1", "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"})
    assert re.search(r"Succeeded: trained [1-9]\d* steps and published the adapter", printed), printed
    [manifest] = tmp_path.glob("adapters/default/tickets/*/manifest.json")
    compared = subprocess.run([sys.executable, "-c", _script("compare-runs.md"), manifest, manifest], text=True,
                              capture_output=True, check=True).stdout.splitlines()
    assert compared[0].split("\t") == ["metric", "tickets", "tickets"]
    assert {"loss", "jsonValid", "schemaValid"} <= {line.partition("\t")[0] for line in compared}


def _script(page):
    """The Python code of a how-to page."""
    [code] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "how-to" / page).read_text(), re.M | re.DOTALL)
    return code


def test_a_command_that_ends_otherwise_than_the_page_says_fails_the_tutorial(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('```yaml title="a.yaml"\nkey: "$HOME"\n```\n\n```bash exit=3\ncat a.yaml\n(exit 3)\n```\n\n'
                    "```bash\nfalse\n```\n")
    (tmp_path / "clone").mkdir()
    with pytest.raises(AssertionError, match=r'key: "\$HOME"'):
        Tutorial(page, tmp_path / "clone").follow()
    page.write_text(page.read_text().replace("false", "true"))
    (tmp_path / "other").mkdir()
    assert 'key: "$HOME"' in Tutorial(page, tmp_path / "other").follow()
